"""An extension of Griffe for the documentation site: docstrings as they are at run time.

`GenerationConfig` adds the descriptions of its options to its docstring when it is imported: the sentences are those of
the command line's help.
"""

from __future__ import annotations

import inspect
from typing import Any

from griffe import Class, Docstring, Extension, dynamic_import

COMPLETED = {"vexpress_rt.config.GenerationConfig"}  # classes whose docstrings are completed at run time


class RuntimeDocstrings(Extension):
    """Takes the docstrings of some classes from the imported classes."""

    def on_class_instance(self, *, cls: Class, **arguments: Any) -> None:
        """Replace the docstring of a class in COMPLETED."""
        if cls.path in COMPLETED:
            text = inspect.getdoc(dynamic_import(cls.path)) or ""
            cls.docstring = Docstring(text, parent=cls)
