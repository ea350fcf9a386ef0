"""The operators' server: builds, signs and publishes releases, knows the devices, serves both."""

__all__: list[str] = []
