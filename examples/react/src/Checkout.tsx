import { SHOP } from './shop';
import type { PaymentProblem } from './paidonce';

interface Props {
  order: string;
  /** The order is paid, or its money is under way: there is nothing more to do for the buyer. */
  onDone: () => void;
  onProblem: (problem: PaymentProblem) => void;
}

/** Every way to pay that the shop has. A redirect (a bank's, a wallet's) comes back to this very page by itself. */
export function Checkout({ order, onDone, onProblem }: Props) {
  return (
    <payment-methods
      order={order}
      api-base={SHOP}
      onpaid={onDone}
      onpending={onDone}
      onerror={(event) => onProblem(event.detail)}
    />
  );
}
