import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// Not to be moved on its own: the shop lists this page's origin.
const server = { host: '127.0.0.1', port: 8020, strictPort: true };

export default defineConfig({
  plugins: [react()],
  server,
  preview: server,
  // main.tsx waits for the shop's module before it renders.
  build: { target: 'es2022' },
});
