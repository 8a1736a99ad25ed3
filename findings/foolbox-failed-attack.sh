#!/usr/bin/env bash
# foolbox's Carlini-Wagner and elastic net attacks give a black picture where they fail, and it can count as a success.
#
# Version: foolbox 3.3.4 with eagerpy 0.30.0, jax and jaxlib 0.4.30, numpy 1.26.4.
# Guess: an image that could not be broken comes back as it was, with success false, as from DDN.
# Behaviour: the array of best images begins as zeros, and stays so where nothing was found. Success is then judged on
#   what came back. Wherever a black picture is of another class, the failure is a success, and its distance is the
#   length of the image: the success rate is 100 % and the median distance says nothing about the network.
# Output seen: of 8 images with 5 steps, by both attacks 8 successes, 8 black pictures, median distance 4.084, which is
#   the images' length; by DDN with 1 step 0 successes, images as they were.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet foolbox==3.3.4 eagerpy==0.30.0 jax==0.4.30 jaxlib==0.4.30 numpy==1.26.4 scipy==1.13.1
cat > "$folder/failed.py" <<'PYTHON'
import foolbox
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(0)
images = jnp.asarray(rng.uniform(0.4, 0.6, (8, 64)).astype(np.float32))
direction = jnp.ones(64)


def network(points):
    """The first class wherever there is light: black pictures alone are of the second."""
    brightness = points.reshape(len(points), -1) @ direction
    return jnp.stack([brightness, jnp.full_like(brightness, 1.0)], axis=1)


model = foolbox.JAXModel(network, bounds=(0, 1))
labels = network(images).argmax(axis=1)
lengths = np.linalg.norm(np.asarray(images), axis=1)
for attack in (foolbox.attacks.L2CarliniWagnerAttack, foolbox.attacks.EADAttack):
    found, _, success = attack(binary_search_steps=1, steps=5, initial_const=1e-3)(model, images, labels, epsilons=None)
    black = (np.asarray(found) == 0).all(axis=1)
    distances = np.linalg.norm(np.asarray(found - images), axis=1)
    print(attack.__name__, int(success.sum()), int(black.sum()), np.median(distances))
    assert black.all() and bool(success.all())
    assert np.allclose(distances, lengths)
found, _, success = foolbox.attacks.DDNAttack(steps=1)(model, images, labels, epsilons=None)
print("DDN", int(success.sum()), bool((found == images).all()))
assert not bool(success.any())
PYTHON
"$folder/env/bin/python" "$folder/failed.py"
