/** The shop's API, on another origin. The shop lists this page's origin in PAIDONCE_ALLOWED_ORIGINS. */

export const SHOP: string = import.meta.env.VITE_SHOP ?? 'http://127.0.0.1:8000';

export interface Product {
  sku: string;
  name: string;
  image: string;
  price: number;
  currency: string;
}

export interface Order {
  id: string;
  number: string;
  status: 'open' | 'pending' | 'paid' | 'canceled' | 'expired';
  total: number;
  currency: string;
  lines: { name: string; quantity: number }[];
}

/** An answer that is not a success; `code` is stable, `message` is a sentence for the buyer. */
export class Problem extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

async function call<T>(method: string, path: string, body?: object): Promise<T> {
  const answer = await fetch(SHOP + path, {
    method,
    credentials: 'include', // The buyer's cookie goes along to the other origin.
    headers: body && { 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  const value = await answer.json();
  if (!answer.ok) throw new Problem(value.code, value.detail);
  return value as T;
}

export const signIn = (email: string, password: string) =>
  call<{ name: string }>('POST', '/api/session', { email, password });

/** What there is to buy, for a buyer who is signed in. */
export async function products(): Promise<Product[]> {
  await call('GET', '/api/orders');
  return call<Product[]>('GET', '/api/products');
}

export const placeOrder = (sku: string) => call<Order>('POST', '/api/orders', { lines: [{ sku, quantity: 1 }] });

export const findOrder = (id: string) => call<Order>('GET', `/api/orders/${encodeURIComponent(id)}`);

/** Minor units as people write them; a currency has two decimals, three, or none. */
export function price(minor: number, currency: string): string {
  const format = new Intl.NumberFormat('en', { style: 'currency', currency });
  return format.format(minor / 10 ** (format.resolvedOptions().maximumFractionDigits ?? 2));
}
