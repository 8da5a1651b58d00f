"""Codes of this stage. See entry.py for what each one states."""

from __future__ import annotations
