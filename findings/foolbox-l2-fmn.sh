#!/usr/bin/env bash
# foolbox's L2 Fast Minimum Norm attack finds its first step and nothing shorter, however many steps it takes.
#
# Version: foolbox 3.3.4 with eagerpy 0.30.0, jax and jaxlib 0.4.30, numpy 1.26.4.
# Guess: on a linear network, where the first gradient points at the nearest adversarial example, the attack ends at its
#   distance, as DDN does.
# Behaviour: the perturbation is never brought to the norm that the attack adapts: the factor of its projection is
#   1 for every image. The distance found is that of the first step that crosses the boundary, of length 1 (an option,
#   `max_stepsize`). In l1 and linf the projection does what it should.
# Output seen: exact distances from 0.002 to 0.894; found, with 10, 100 and 1000 steps alike, 1.000 for every image;
#   DDN's are 1.47, 1.00 and 1.00 times the exact ones in the median.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet foolbox==3.3.4 eagerpy==0.30.0 jax==0.4.30 jaxlib==0.4.30 numpy==1.26.4 scipy==1.13.1
cat > "$folder/shortest.py" <<'PYTHON'
import foolbox
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(0)
weights = rng.standard_normal((64, 2)).astype(np.float32)
drawn = rng.standard_normal((200, 64)).astype(np.float32)
direction = weights[:, 1] - weights[:, 0]
exact = np.abs(drawn @ direction) / np.linalg.norm(direction)
near = exact < 0.9
images, exact = jnp.asarray(drawn[near]), exact[near]
signed = jnp.asarray(weights)


def network(points):
    return points.reshape(len(points), -1) @ signed


# Bounds so wide that the box has no say.
model = foolbox.JAXModel(network, bounds=(-100, 100))
labels = network(images).argmax(axis=1)


def distances(attack):
    found, _, success = attack(model, images, labels, epsilons=None)
    assert bool(success.all())
    return np.linalg.norm(np.asarray(found - images), axis=1)


print(f"{len(images)} images, exact distances from {exact.min():.3f} to {exact.max():.3f}")
for steps in (10, 100, 1000):
    fmn = distances(foolbox.attacks.L2FMNAttack(steps=steps))
    ddn = np.median(distances(foolbox.attacks.DDNAttack(steps=steps)) / exact)
    print(f"{steps} steps: L2FMN from {fmn.min():.3f} to {fmn.max():.3f}; DDN / exact {ddn:.3f}")
    assert np.abs(fmn - 1).max() < 1e-3
assert abs(ddn - 1) < 0.01
PYTHON
"$folder/env/bin/python" "$folder/shortest.py"
