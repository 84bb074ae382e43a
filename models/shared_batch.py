"""Old names of `models.data_parallel`, until the callers follow."""

from models.data_parallel import set_shard as tell

__all__ = ["tell"]
