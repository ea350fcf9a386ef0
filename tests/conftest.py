"""What holds for every test: no generated example is held to a wall-clock deadline."""

from hypothesis import settings

settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
