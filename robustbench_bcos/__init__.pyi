# The public names, and where each is defined: __init__.py reads this file, and imports a name when it is first used.

from robustbench_bcos.attacks import ATTACKS as ATTACKS
from robustbench_bcos.attacks import CRITERIA as CRITERIA
from robustbench_bcos.attacks import LOSSES as LOSSES
from robustbench_bcos.attacks import NORMS as NORMS
from robustbench_bcos.attacks.searches.apgd import APGD as APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD as TargetedAPGD
from robustbench_bcos.attacks.searches.autoattack import AutoAttack as AutoAttack
from robustbench_bcos.attacks.searches.autoattack import Ensemble as Ensemble
from robustbench_bcos.attacks.searches.fab import FAB as FAB
from robustbench_bcos.attacks.searches.noise import Noise as Noise
from robustbench_bcos.attacks.searches.pgd import PGD as PGD
from robustbench_bcos.attacks.searches.square import Square as Square
from robustbench_bcos.attacks.threat import Threat as Threat
from robustbench_bcos.bench.evaluation import benchmark as benchmark
from robustbench_bcos.bench.evaluation import evaluate as evaluate
from robustbench_bcos.bench.evaluation import fool as fool
from robustbench_bcos.bench.replicas import ThreadedReplicas as ThreadedReplicas
from robustbench_bcos.core.errors import RequestError as RequestError
from robustbench_bcos.explanations.explanation import explain as explain
from robustbench_bcos.explanations.verification import verify_explanation as verify_explanation
from robustbench_bcos.localisation.evaluation import localise as localise
from robustbench_bcos.localisation.mask_scoring import score_masks as score_masks
from robustbench_bcos.localisation.scoring import score_grids as score_grids
from robustbench_bcos.model_zoo.bcos.folding import fold as fold
from robustbench_bcos.model_zoo.bcosify.bcosify import bcosify as bcosify
from robustbench_bcos.model_zoo.classifier import freeze as freeze
from robustbench_bcos.model_zoo.models import list_models as list_models
from robustbench_bcos.model_zoo.models import load_model as load_model

__version__: str
