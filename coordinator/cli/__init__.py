"""The operators' commands; each module is loaded by an entry point when it is used."""

__all__: list[str] = []
