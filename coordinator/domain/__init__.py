"""Pure decisions of the coordinator: rollout, roster, audit chain, overviews. No I/O, no clock."""

__all__: list[str] = []
