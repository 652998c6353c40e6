/** fused-adamw as an ES module: what index.ts exports, so that require() and import give the same classes. */
export * from './index.js';
