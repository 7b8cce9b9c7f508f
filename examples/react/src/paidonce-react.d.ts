/** JSX types of paidonce's custom elements for React 19, which passes their attributes and events on as they are. */

import type { DetailedHTMLProps, HTMLAttributes } from 'react';
import type { GatewayAttributes, PaymentElement, PaymentEvents, PaymentMethodsAttributes } from './paidonce';

// React listens to an element's own event `paid` by the property `onpaid`, in lower case.
type Listeners = { [K in keyof PaymentEvents as `on${K}`]?: (event: PaymentEvents[K]) => void };

type Props = DetailedHTMLProps<HTMLAttributes<PaymentElement>, PaymentElement> & { class?: string } & Listeners;

declare module 'react' {
  namespace JSX {
    interface IntrinsicElements {
      'payment-methods': Props & PaymentMethodsAttributes;
      [gateway: `${string}-payment`]: Props & GatewayAttributes;
    }
  }
}
