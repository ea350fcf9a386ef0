"""The HTTP interface: files, device API, operators' API. No decisions of its own."""

from coordinator.api.device import DeviceApi
from coordinator.api.errors import ApiError
from coordinator.api.files import RepositoryFiles
from coordinator.api.operator import OperatorApi

__all__ = ["ApiError", "DeviceApi", "OperatorApi", "RepositoryFiles"]
