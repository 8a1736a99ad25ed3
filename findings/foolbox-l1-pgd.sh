#!/usr/bin/env bash
# foolbox's l1 PGD stays far below the best l1 attack on a linear model, however many steps it takes.
#
# Version: foolbox 3.3.4 with eagerpy 0.30.0, jax and jaxlib 0.4.30, numpy 1.26.4.
# Guess: in an l1 ball, the best perturbation of a linear score w.x spends all of epsilon on the pixel of the largest
#   weight and gains epsilon * max|w|; projected gradient descent finds it, because the score is concave.
# Behaviour: steps follow the gradient divided by its l1 norm, and what leaves the ball is scaled back along its own
#   direction; this is not the nearest point of the ball (Duchi et al., 2008), which sets small entries to zero. So the
#   perturbation keeps the direction of w for ever and gains epsilon * |w|_2^2 / |w|_1.
# Output seen: best 2.325; gained after 10, 100 and 1000 steps 1.120; |w|_2^2 / |w|_1 = 1.120; 64 of 64 entries changed.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet foolbox==3.3.4 eagerpy==0.30.0 jax==0.4.30 jaxlib==0.4.30 numpy==1.26.4 scipy==1.13.1
cat > "$folder/linear.py" <<'PYTHON'
import foolbox
import jax.numpy as jnp
import numpy as np

weights = np.random.default_rng(0).standard_normal(64).astype(np.float32)
signed = jnp.asarray(weights)


def network(images):
    score = images.reshape(len(images), -1) @ signed
    return jnp.stack([-score, jnp.zeros_like(score)], axis=1)


# Bounds so wide that the box has no say; the attacked class is the first one, so that the score is to grow.
model = foolbox.JAXModel(network, bounds=(-100, 100))
images, labels = jnp.zeros((1, 64)), jnp.zeros(1, dtype=int)
best = np.abs(weights).max()
radial = (weights**2).sum() / np.abs(weights).sum()
print(f"best {best:.3f}, |w|_2^2 / |w|_1 = {radial:.3f}")
for steps in (10, 100, 1000):
    attack = foolbox.attacks.L1ProjectedGradientDescentAttack(rel_stepsize=0.5, steps=steps, random_start=False)
    found, _, _ = attack(model, images, labels, epsilons=1.0)
    change = np.asarray(found).ravel()
    print(f"{steps} steps: l1 {np.abs(change).sum():.3f}, gained {change @ weights:.3f}, changed {(change != 0).sum()}")
    assert abs(np.abs(change).sum() - 1) < 1e-4
    assert abs(change @ weights - radial) < 1e-3 < best - radial
    assert (change != 0).sum() == 64
PYTHON
"$folder/env/bin/python" "$folder/linear.py"
