/* Requests: how far they are, what went wrong in plain words, and another try when it is time. */

import { element, note } from './dom.js';

const TRIES = 6; // of a request that the server is too busy for
const SILENCE = 60000; // milliseconds without a byte, after which a request is given up
const LONGEST_WAIT = 30; // seconds
let maxBytes = Infinity;

export function limitTo(bytes) {
  maxBytes = bytes;
}

/* Why there is no answer; `doubtful`: it is done if one insists; `again`: it may go well later. */
export class Failure extends Error {
  constructor(message, { doubtful = false, again = false } = {}) {
    super(message);
    Object.assign(this, { doubtful, again });
  }
}

function unreachable() {
  const local = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);
  const reason = navigator.onLine || local
    ? 'The server does not answer; perhaps it has been stopped.'
    : 'This device is offline.';
  return new Failure(`${reason} Nothing is lost: try again when it is back.`, { again: true });
}

function send(path, { method = 'GET', body = null, tell, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much has been sent
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => request.abort(), SILENCE);
    };
    request.open(method, path);
    if (body) {
      request.upload.addEventListener('progress', (event) => {
        heard();
        tell({ sent: event.loaded / event.total });
      });
    }
    request.addEventListener('progress', heard);
    request.addEventListener('load', () => resolve(request));
    request.addEventListener('error', () => reject(unreachable()));
    request.addEventListener('abort', () => reject(unreachable()));
    request.addEventListener('loadend', () => clearTimeout(silence));
    signal?.addEventListener('abort', () => request.abort());
    heard();
    request.send(body);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {}; // a proxy's page
  }
}

function secondsToWait(request) {
  const told = Number(request.getResponseHeader('Retry-After'));
  return Math.min(told > 0 ? told : 2, LONGEST_WAIT);
}

/* The answer as JSON, or a Failure.

   `tell` hears { sent: share of the bytes } and, when the server is busy, { wait: seconds, left:
   tries }; `signal` ends it. */
export async function api(path, options = {}) {
  const { body, tell = () => {}, signal } = options;
  const size = [...(body || [])].reduce((sum, [, value]) => sum + (value.size || 0), 0);
  if (size > maxBytes) {
    throw new Failure(`more than ${maxBytes >> 20} MB; make the photographs smaller`);
  }
  for (let left = TRIES - 1; ; left -= 1) {
    const request = await send(path, { ...options, tell });
    const { status } = request;
    const answer = parsed(request.responseText);
    if (status >= 200 && status < 300) return answer;
    if (status !== 503 || !left) {
      const message = answer.error || `the server answered ${status}`;
      throw new Failure(message, { doubtful: Boolean(answer.doubtful), again: status >= 500 });
    }
    const wait = secondsToWait(request);
    tell({ wait, left });
    await new Promise((resolve) => { setTimeout(resolve, 1000 * wait); });
    if (signal?.aborted) throw unreachable();
  }
}

/* Words and a bar for what `tell` hears. */
export function progress(start) {
  const words = note(start, 'busy');
  const bar = element('progress', { max: 1, value: 0, hidden: true, 'aria-label': 'sent' });
  const tell = ({ sent, wait, left }) => {
    const text = wait
      ? `The server is busy; trying again in ${wait} s (${left} more)`
      : sent < 1 ? 'Sending …' : start;
    if (words.textContent !== text) words.textContent = text; // which is read out
    bar.hidden = !(sent < 1);
    if (sent < 1) bar.value = sent;
  };
  return { nodes: [words, bar], tell };
}

/* Shows how far a request is, then what `draw` makes of its answer; a newer one ends an older. */
const running = new Map(); // place -> AbortController
export async function show(target, ask, draw) {
  drop(target);
  const control = new AbortController();
  running.set(target, control);
  const { nodes, tell } = progress('Looking …');
  target.replaceChildren(...nodes);
  let content;
  try {
    content = draw(await ask({ tell, signal: control.signal }));
  } catch (error) {
    if (!(error instanceof Failure)) console.error(error);
    content = [note(error.message, 'error')];
    if (error.again) {
      const again = element('button', { type: 'button', textContent: 'Try again' });
      again.addEventListener('click', () => show(target, ask, draw));
      content.push(element('p', { className: 'actions' }, again));
    }
  }
  if (!control.signal.aborted) target.replaceChildren(...content);
}

/* Ends what is asked for a place, and empties it. */
export function drop(target) {
  running.get(target)?.abort();
  running.delete(target);
  target.replaceChildren();
}
