/**
 * Types of paidonce's custom elements, for any front end in TypeScript. Copy this file beside your sources.
 *
 * A gateway's element is called `<its name>-payment`, so these types hold for gateways that are added later as well.
 * For JSX in React there is `paidonce-react.d.ts`, which builds on this file.
 */

export type PaymentStatus =
  | 'created'
  | 'awaiting_buyer'
  | 'processing'
  | 'authorized'
  | 'captured'
  | 'failed'
  | 'canceled'
  | 'held';

export type OrderStatus = 'open' | 'pending' | 'paid' | 'canceled' | 'expired';

/** What the server says became of a payment, after it asked the gateway. `message` is a sentence for the buyer. */
export interface PaymentResult {
  status: PaymentStatus;
  order_status: OrderStatus;
  /** Whether the buyer may try again on the same payment. */
  recoverable: boolean;
  message: string;
  /** The ids of the payment and of its order. */
  payment: string;
  order: string;
  gateway: string;
}

/** The buyer turned back. The order stays as it is. */
export interface PaymentTurnedBack {
  message: string;
  payment: string | null;
  order: string;
  gateway: string;
}

/** `code` is stable, as in the HTTP interface (`sold_out`, `already_paid`, …); `message` is a sentence for the buyer. */
export interface PaymentProblem {
  code: string;
  message: string;
}

export interface PaymentEvents {
  /** The order is paid. */
  paid: CustomEvent<PaymentResult>;
  /** The money is under way, or reserved, or goes back (`captured`, order not paid); there is nothing more to do. */
  pending: CustomEvent<PaymentResult>;
  /** The payment did not go through; the form is there for another try. */
  declined: CustomEvent<PaymentResult>;
  /** The buyer turned back without paying. */
  canceled: CustomEvent<PaymentTurnedBack>;
  /** Something else went wrong. It does not bubble; `<payment-methods>` passes its elements' errors on. */
  error: CustomEvent<PaymentProblem>;
  /** Whether the element is at work, or done. */
  busy: CustomEvent<{ busy: boolean; loading: boolean }>;
}

/** What `<payment-methods>` and every gateway's element have in common. */
export interface PaymentElement extends HTMLElement {
  /** The order's id: the attribute `order`. Another one begins anew. */
  order: string | null;
  readonly busy: boolean;
  /** The payment that was started or brought back, if there is one. */
  readonly paymentId: string | null;
  /** The answer to the shop's own challenge, set by the page after the error `challenge_needed`; good for one start. */
  challenge: string | null;
  /** Begin anew, for instance after the buyer signed in again. */
  reload(): Promise<void>;
  addEventListener<K extends keyof PaymentEvents>(
    type: K,
    listener: (this: PaymentElement, event: PaymentEvents[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof PaymentEvents>(
    type: K,
    listener: (this: PaymentElement, event: PaymentEvents[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** The attributes of `<payment-methods>`. */
export interface PaymentMethodsAttributes {
  /** The id of the order to pay. */
  order: string;
  /** The address below which the API lies, if that is not the page's own origin: `https://shop.example`. */
  'api-base'?: string;
  /** Where a redirect brings the buyer back to, ending with `payment={payment}`; without it, to this very page. */
  'return-url'?: string;
}

/** The attributes of a gateway's own element, which `<payment-methods>` sets by itself; each gateway may have more. */
export interface GatewayAttributes extends PaymentMethodsAttributes {
  /** The words on the button. */
  label?: string;
  /** What some gateways need to know of the order, in their own units. */
  amount?: string;
  currency?: string;
}

declare global {
  interface HTMLElementTagNameMap {
    'payment-methods': PaymentElement;
    [gateway: `${string}-payment`]: PaymentElement;
  }
}
