import { useCallback, useEffect, useState, type FormEvent } from 'react';
import { Checkout } from './Checkout';
import { findOrder, placeOrder, price, Problem, products, SHOP, signIn, type Order, type Product } from './shop';

type View =
  | { at: 'loading' }
  | { at: 'sign-in' }
  | { at: 'choose'; products: Product[] }
  | { at: 'order'; order: Order };

/** The order stands in the address, so that a reload, and the way back from a bank, find it again. */
async function load(): Promise<View> {
  const id = new URLSearchParams(location.search).get('order');
  return id ? { at: 'order', order: await findOrder(id) } : { at: 'choose', products: await products() };
}

export function App() {
  const [view, setView] = useState<View>({ at: 'loading' });
  const [trouble, setTrouble] = useState('');

  const attempt = useCallback(async (work: () => Promise<View>) => {
    setTrouble('');
    try {
      setView(await work());
    } catch (error) {
      if (error instanceof Problem && error.code === 'not_signed_in') setView({ at: 'sign-in' });
      else setTrouble(error instanceof Error ? error.message : String(error));
    }
  }, []);

  useEffect(() => {
    const again = () => void attempt(load);
    again();
    addEventListener('popstate', again);
    return () => removeEventListener('popstate', again);
  }, [attempt]);

  async function buy(product: Product): Promise<View> {
    const order = await placeOrder(product.sku);
    history.pushState(null, '', `?order=${order.id}`);
    return { at: 'order', order };
  }

  function enter(email: string, password: string) {
    void attempt(async () => {
      await signIn(email, password);
      return load();
    });
  }

  return (
    <>
      <header>
        <h1>A React shop</h1>
        <p>It knows no payment service: the shop behind it tells which there are.</p>
      </header>
      <main>
        {view.at === 'sign-in' && <SignIn onSignIn={enter} />}
        {view.at === 'choose' && <Products products={view.products} onBuy={(product) => attempt(() => buy(product))} />}
        {view.at === 'order' && (
          <OrderView key={view.order.id} order={view.order} onSignedOut={() => setView({ at: 'sign-in' })} />
        )}
        <p className="trouble" role="alert">{trouble}</p>
      </main>
    </>
  );
}

function SignIn({ onSignIn }: { onSignIn: (email: string, password: string) => void }) {
  function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    onSignIn(String(form.get('email')), String(form.get('password')));
  }
  return (
    <form className="card" onSubmit={submit}>
      <h2>Sign in</h2>
      <label>Email <input name="email" type="email" autoComplete="username" defaultValue="buyer@example.com" required /></label>
      <label>Password <input name="password" type="password" autoComplete="current-password" defaultValue="buyer-password" required /></label>
      <button>Sign in</button>
    </form>
  );
}

function Products({ products, onBuy }: { products: Product[]; onBuy: (product: Product) => void }) {
  return (
    <ul className="products">
      {products.map((product) => (
        <Offered key={product.sku} product={product} onBuy={() => onBuy(product)} />
      ))}
    </ul>
  );
}

function Offered({ product, onBuy }: { product: Product; onBuy: () => void }) {
  const cost = price(product.price, product.currency);
  return (
    <li className="card">
      {/* Another origin's picture: the shop lends it to listed front ends, so the request has to say who asks. */}
      <img crossOrigin="anonymous" src={SHOP + product.image} alt="" width={160} height={160} />
      <b>{product.name}</b>
      <button onClick={onBuy} aria-label={`Buy ${product.name} for ${cost}`}>{cost}</button>
    </li>
  );
}

function OrderView({ order, onSignedOut }: { order: Order; onSignedOut: () => void }) {
  const [now, setNow] = useState(order);
  const refresh = () => void findOrder(order.id).then(setNow);
  return (
    <section className="card">
      <h2>{now.status === 'paid' ? 'Thank you' : `Pay ${price(now.total, now.currency)}`}</h2>
      <p>{now.lines.map((line) => line.name).join(', ')} · order {now.number}</p>
      {now.status === 'open' || now.status === 'pending' ? (
        <Checkout
          order={order.id}
          onDone={refresh}
          onProblem={({ code }) => {
            if (code === 'not_signed_in') onSignedOut();
            else refresh();
          }}
        />
      ) : (
        <p className="done" role="status">Order {now.number} is {now.status}.</p>
      )}
      <p><a href="?">Choose something else</a></p>
    </section>
  );
}
