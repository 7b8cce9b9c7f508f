import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { App } from './App';
import { SHOP } from './shop';
import './style.css';

// The shop's own module defines <payment-methods>. It is loaded as it is, and not bundled: so it always fits the shop.
await import(/* @vite-ignore */ `${SHOP}/assets/payment-methods.js`);

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
