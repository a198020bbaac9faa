"""Binary networks: the papers' and a small one for the embedded data."""

from sgdat_jax.models.binarynet import BinaryNet as BinaryNet
from sgdat_jax.models.digits_net import DigitsNet as DigitsNet
from sgdat_jax.models.resnet import BiRealResNet18 as BiRealResNet18
from sgdat_jax.models.resnet import SgdatResNet18 as SgdatResNet18
