/** The same as an ES module. */
export * from './tfjs.js';
