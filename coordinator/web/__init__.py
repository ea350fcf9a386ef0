"""The operators' pages (none yet)."""

__all__: list[str] = []
