"""Building, signing and publishing: the only code that touches private keys."""

__all__: list[str] = []
