"""What every test shares: the time of a drawn example says nothing about whether it is right."""

from hypothesis import settings

settings.register_profile("turnout", deadline=None)
settings.load_profile("turnout")
