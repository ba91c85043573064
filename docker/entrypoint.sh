#!/bin/sh
# `docker run IMAGE train …` is `sae-dist train …`; launchers, shells and paths are run as they stand.
case $1 in
  accelerate | bash | nvidia-smi | python | python3 | sae-dist | sh | torchrun | */*) exec "$@" ;;
  *) exec sae-dist "$@" ;;
esac
