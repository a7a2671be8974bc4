"""Certify how many tokens retain the lesions of a new unit, by split conformal and risk control (book/method.md).

Calibration uses labels, though the scores do not, so a certificate is labelled. The promise is marginal: on average
over calibration sets and exchangeable new units.
"""

from covtoken.economy.certificate.bounds import check_level as check_level
from covtoken.economy.certificate.bounds import expected_risk_bound as expected_risk_bound
from covtoken.economy.certificate.bounds import fewest_units as fewest_units
from covtoken.economy.certificate.bounds import rank_bound as rank_bound
from covtoken.economy.certificate.bounds import threshold_bound as threshold_bound
from covtoken.economy.certificate.certify import certify as certify
from covtoken.economy.certificate.certify import certify_route as certify_route
from covtoken.economy.certificate.correction import learn_then_test as learn_then_test
from covtoken.economy.certificate.document import Certificate as Certificate
from covtoken.economy.certificate.document import MadeBy as MadeBy
from covtoken.economy.certificate.document import load_certificate as load_certificate
from covtoken.economy.certificate.label_free import share_lost as share_lost
from covtoken.economy.certificate.label_free import unit_disagreements as unit_disagreements
from covtoken.economy.certificate.law import coverage_interval as coverage_interval
from covtoken.economy.certificate.law import resplits as resplits
from covtoken.economy.certificate.law import share_interval as share_interval
from covtoken.economy.certificate.needs import lesion_needs as lesion_needs
from covtoken.economy.certificate.needs import lesion_thresholds as lesion_thresholds
from covtoken.economy.certificate.needs import unit_needs as unit_needs
from covtoken.economy.certificate.needs import unit_thresholds as unit_thresholds
from covtoken.economy.certificate.strata import by_stratum as by_stratum
from covtoken.economy.certificate.strata import strictest as strictest
