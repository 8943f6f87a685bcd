"""Reading of ONNX files as OpenVINO's models."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from vexpress_rt.backends.openvino import library
from vexpress_rt.utils.native_calls import native_call


def read_model(path: str | Path, name: str) -> Any:
    """Read an ONNX file as a model. Its weights are mapped from their files.

    Only OpenVINO's reader of ONNX sees the file; by default OpenVINO also tries its readers of other formats.

    Args:
        path: The file.
        name: The engine's name, for messages.

    Raises:
        BackendMissingError: OpenVINO is not installed.
        BackendError: The file cannot be read, or memory ran out.
    """
    reader = _onnx_reader(library.import_library(), os.getpid())
    try:
        with native_call():
            return reader.convert(reader.load(str(path)))
    except Exception as error:  # OpenVINO's exceptions have no common base
        raise library.backend_error(f"engine {name} cannot be loaded from {path}", error) from error


@functools.cache
def _onnx_reader(openvino: Any, process: int) -> Any:
    return openvino.frontend.FrontEndManager().load_by_framework("onnx")
