// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them.

/** Return a duration in seconds as text: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return 'unknown';
  const s = Math.max(0, seconds);
  if (s < 9.95) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Return how long ago something was. */
export function ago(seconds) {
  return seconds === null || seconds === undefined ? 'never' : `${duration(seconds)} ago`;
}

/** Return milliseconds of a duration in seconds. */
export function milliseconds(seconds) {
  return seconds === null || seconds === undefined ? '–' : `${Math.round(seconds * 1000)} ms`;
}

/** Return a count with thin spaces between thousands. */
export function count(value) {
  return String(value).replace(/\B(?=(\d{3})+(?!\d))/g, '\u2009');
}

/** Return a value with its sign and four decimals. */
export function signed(value) {
  if (value === null) return 'not finite';
  return `${value < 0 ? '\u2212' : '+'}${Math.abs(value).toFixed(4)}`;
}

/** Return the name of a counter or a state for people: `received_late` is `received late`. */
export function plain(name) {
  return name.replaceAll('_', ' ').toLowerCase();
}

/** Return the text with a capital letter. */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
