"""A Griffe extension for the documentation site that reads docstrings from imported classes.

On import, `GenerationConfig` adds the descriptions of its options to its docstring, from the field metadata that the
command line's help also uses.
"""

from __future__ import annotations

import inspect
from typing import Any

from griffe import Class, Docstring, Extension, dynamic_import

COMPLETED = {"vexpress_rt.config.GenerationConfig"}  # classes whose docstrings are completed at run time


class RuntimeDocstrings(Extension):
    """Replaces the docstrings of the classes in COMPLETED by those at run time."""

    def on_class_instance(self, *, cls: Class, **arguments: Any) -> None:
        """Replace the docstring of a class in COMPLETED."""
        if cls.path in COMPLETED:
            text = inspect.getdoc(dynamic_import(cls.path)) or ""
            cls.docstring = Docstring(text, parent=cls)
