"""The types say what the elements take and tell, without and with React, and the examples use them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.frontends import ASSETS, REACT, copy_without_packages, node

TYPES = ["paidonce.d.ts", "paidonce-react.d.ts"]
COMPILER = "node_modules/typescript/bin/tsc"

# Each line marked as an error has to be one, or the compiler complains about the mark.
PLAIN = """
import type { PaymentProblem, PaymentResult } from './paidonce';

const methods = document.createElement('payment-methods');
methods.order = 'ord_1';
methods.addEventListener('paid', (event) => {
  const result: PaymentResult = event.detail;
  console.log(result.order_status === 'paid', result.payment, result.gateway);
});
methods.addEventListener('error', (event) => {
  const problem: PaymentProblem = event.detail;
  console.log(problem.code);
});
document.querySelector('acme-payment')?.addEventListener('declined', (event) => console.log(event.detail.message));
document.querySelector('div')?.addEventListener('click', (event) => console.log(event.clientX));
// @ts-expect-error There is no such state.
methods.addEventListener('paid', (event) => console.log(event.detail.status === 'stolen'));
// @ts-expect-error An order has an id and not a number.
methods.order = 5;
"""
JSX = """
import type { PaymentElement } from './paidonce';

const told = (message: string) => console.log(message);
export const good = [
  <payment-methods order="ord_1" className="pay" key="1" onpaid={(event) => told(event.detail.order)} />,
  <payment-methods order="ord_1" api-base="https://shop.example" return-url="https://x.example/?payment={payment}"
    onerror={(event) => told(event.detail.code)} ref={(element: PaymentElement | null) => void element?.reload()} />,
  <acme-payment order="ord_1" publishable-key="pk_1" label="Pay" ondeclined={(event) => told(event.detail.message)} />,
];
// @ts-expect-error Without an order there is nothing to pay.
export const nothing = <payment-methods />;
// @ts-expect-error The event carries more than a number.
export const wrong = <payment-methods order="ord_1" onpaid={(event: CustomEvent<number>) => told(String(event))} />;
// @ts-expect-error Other elements are as strict as before.
export const other = <payment-metods order="ord_1" />;
"""


def test_the_react_example_is_typed() -> None:
    checked = node(REACT, COMPILER, "--noEmit")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", TYPES)
def test_the_example_has_the_very_types_that_the_shop_serves(name: str) -> None:
    assert (REACT / "src" / name).read_text("utf-8") == (ASSETS / name).read_text("utf-8"), (
        f"run: cp src/paidonce/components/assets/{name} examples/react/src/"
    )


def test_the_types_are_right_and_strict_without_react(tmp_path: Path) -> None:
    shutil.copy(ASSETS / "paidonce.d.ts", tmp_path)
    (tmp_path / "page.ts").write_text(PLAIN)
    (tmp_path / "node_modules").symlink_to(REACT / "node_modules")
    (tmp_path / "tsconfig.json").write_text(
        '{"compilerOptions": {"strict": true, "noEmit": true, "target": "es2022", "types": [], "skipLibCheck": false,'
        ' "module": "esnext", "moduleResolution": "bundler"}, "files": ["page.ts", "paidonce.d.ts"]}'
    )
    checked = node(tmp_path, COMPILER, "-p", ".")
    assert checked.returncode == 0, checked.stdout


def test_the_types_are_right_and_strict_in_jsx(tmp_path: Path) -> None:
    project = tmp_path / "react"
    copy_without_packages(REACT, project)
    (project / "src" / "types.tsx").write_text(JSX)
    checked = node(project, COMPILER, "--noEmit", "--skipLibCheck", "false")
    assert checked.returncode == 0, checked.stdout
    # The compiler did look at it.
    (project / "src" / "types.tsx").write_text(JSX.replace("// @ts-expect-error", "//"))
    unchecked = node(project, COMPILER, "--noEmit")
    assert unchecked.stdout.count("error TS") == JSX.count("@ts-expect-error")
