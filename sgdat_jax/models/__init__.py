"""Binary networks: the papers' and a small one for the embedded data."""

from sgdat_jax.models.digits_net import DigitsNet as DigitsNet
