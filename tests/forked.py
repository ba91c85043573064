"""Imported last by the process that others are forked from: what each of them would do again."""

import gc

import torch

from sae_dist.common.processor import multiplies_bfloat16_faster

torch.set_num_threads(1)  # a pool of threads would not come along
multiplies_bfloat16_faster()
gc.freeze()  # training begins with a look through all garbage
