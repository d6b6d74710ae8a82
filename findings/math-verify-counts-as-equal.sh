#!/usr/bin/env bash
# Some answers that math-verify counts as equal, although a reader may not.
#
# Expected: the two answers of a row are unequal. Seen: verify(parse(a), parse(b)) is True.
#   a              b          reason, from what parse returns
#   0,500          0.5        the comma is read as a decimal point
#   5 cm           5 m        the unit is dropped
#   $5$ cm         $5$ km     the unit after the formula is dropped
#   $\{1,2\}$      $(1,2)$    the set {1, 2} and the open interval (1, 2)
#   $\not 5$       $5$        \not is passed over
#   $\foo 5$       $5$        an unknown command is passed over
# The comma is not always a decimal point: $3,5$ is the set {3, 5}, which does not equal 3.5.
# Versions: math-verify 0.9.0, latex2sympy2_extended 1.11.0, sympy 1.14.0,
# antlr4-python3-runtime 4.13.2, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0 \
  antlr4-python3-runtime==4.13.2

"$dir/venv/bin/python" - <<'PY'
import sys

from math_verify import parse, verify

pairs = [("0,500", "0.5", True), ("5 cm", "5 m", True), ("$5$ cm", "$5$ km", True),
         (r"$\{1,2\}$", "$(1,2)$", True), (r"$\not 5$", "$5$", True), (r"$\foo 5$", "$5$", True),
         ("$3,5$", "$3.5$", False)]
changed = []
for a, b, stated in pairs:
    left, right = parse(a), parse(b)
    equal = verify(left, right)
    print(f"{a:12} {b:10} {'equal' if equal else 'unequal':8}", left[0], "and", right[0])
    if equal != stated:
        changed.append(f"{a} and {b}")
if changed:
    sys.exit("CHANGED: " + "; ".join(changed))
print("as stated")
PY
