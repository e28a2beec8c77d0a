/* Elements without markup in strings: names of people and files are text, never HTML. */

export const byId = (id) => document.getElementById(id);

/* An element; attributes with a hyphen are set as such, the others as properties. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.includes('-')) node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/* A name among other words: one that is written from right to left must not turn these round. */
export const named = (name) => element('bdi', { textContent: name });

export function note(text, sort = '') {
  return element('p', { className: `note ${sort}`.trim(), textContent: text });
}

export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString('en')} ${count === 1 ? one : many}`;
}

export function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return form;
}

/* First letters of the first and the last word, in place of a picture that is not kept. */
export function initials(name) {
  const words = name.split(/\s+/).filter(Boolean);
  const ends = words.length > 1 ? [words[0], words[words.length - 1]] : words;
  const letters = ends.map((word) => [...word][0]).join('').toUpperCase();
  return element('span', { className: 'thumb', textContent: letters, 'aria-hidden': 'true' });
}

/* Somebody's picture, which says nothing that the name beside it does not. */
export function thumbnail(name, source) {
  if (!source) return initials(name);
  const picture = element('img', {
    className: 'thumb', alt: '', width: 56, height: 56, loading: 'lazy', src: source,
  });
  picture.addEventListener('error', () => picture.replaceWith(initials(name)));
  return picture;
}

/* A cosine from 0 to 1 as a bar, with the threshold as a mark; below 0 nothing is filled. */
export function scale(cosine, same, threshold) {
  const percent = (value) => `${100 * Math.max(0, Math.min(1, value))}%`;
  const value = element('div', { className: 'value' });
  value.style.width = percent(cosine);
  const bar = element('div', { className: `scale ${kind(same)}` }, value);
  if (threshold !== null) {
    const mark = element('div', { className: 'mark', title: `threshold ${threshold.toFixed(3)}` });
    mark.style.left = percent(threshold);
    bar.append(mark);
  }
  return bar;
}

export function kind(same) {
  return same === null ? '' : same ? 'same' : 'different';
}

/* What is to be said of a face: turned, poor. */
export function remarks(face) {
  const texts = face.turned ? [`found with the picture turned by ${face.turned} degrees`] : [];
  const quality = `quality ${face.quality.toFixed(2)}`;
  texts.push(...face.reasons.map((reason) => `${quality}: ${reason}`));
  return texts.map((text) => note(text));
}
