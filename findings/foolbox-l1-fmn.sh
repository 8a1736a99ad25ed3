#!/usr/bin/env bash
# foolbox's L1 Fast Minimum Norm attack stops short of the boundary where the box from 0 to 1 binds.
#
# Version: foolbox 3.3.4 with eagerpy 0.30.0, jax and jaxlib 0.4.30, numpy 1.26.4.
# Guess: on a linear network, more steps break every image that a point of the box breaks; only the distance may be long.
# Behaviour: while nothing is found, the next ball's radius is the present distance plus what the gradient's largest
#   entry would need to reach the boundary. Where that pixel is at an end of the box already it gives nothing, the
#   estimate stays too short, and the attack goes round below the boundary, whatever the number of steps. In l2 and linf,
#   where all pixels share the change, hardly an image is lost.
# Output seen: of 200 images of five linear networks, all with points of another class in the box, left unbroken with 30
#   and with 300 steps: by L1 FMN 17 and 17, and in a box from -10 to 10 2 and 2; by L2 FMN none, by linf FMN 1 each.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet foolbox==3.3.4 eagerpy==0.30.0 jax==0.4.30 jaxlib==0.4.30 numpy==1.26.4 scipy==1.13.1
cat > "$folder/box.py" <<'PYTHON'
import foolbox
import jax.numpy as jnp
import numpy as np

def unbroken(attack, steps, bounds, seed):
    """Images of a linear network that keep their class; each has points of another class in the box from 0 to 1."""
    rng = np.random.default_rng(seed)
    weights = (0.3 * rng.standard_normal((48, 10))).astype(np.float32)
    drawn = rng.uniform(0.25, 0.75, size=(40, 48)).astype(np.float32)
    labels = (drawn @ weights).argmax(axis=1)
    towards = weights[:, None, :] - weights[:, labels, None]
    assert (np.maximum(towards, 0).sum(axis=0).max(axis=1) > 0).all()
    signed = jnp.asarray(weights)
    model = foolbox.JAXModel(lambda points: points @ signed, bounds=bounds)
    _, _, success = getattr(foolbox.attacks, attack)(steps=steps)(
        model, jnp.asarray(drawn), jnp.asarray(labels), epsilons=None
    )
    return int((~success).sum())


seen = {
    attack: [
        sum(unbroken(attack, steps, bounds, seed) for seed in range(5))
        for bounds in ((0, 1), (-10, 10))
        for steps in (30, 300)
    ]
    for attack in ("L1FMNAttack", "L2FMNAttack", "LInfFMNAttack")
}
print(f"unbroken of 200, box from 0 to 1 with 30 and 300 steps, box from -10 to 10 with the same: {seen}")
assert seen == {"L1FMNAttack": [17, 17, 2, 2], "L2FMNAttack": [0] * 4, "LInfFMNAttack": [1] * 4}
PYTHON
"$folder/env/bin/python" "$folder/box.py"
