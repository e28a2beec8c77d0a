/* Buttons for the faces of a photograph, on it or, where it is not shown, beside it. */

import { element, named } from './dom.js';

export const ALL = 'all';

export class Choice {
  /* Words stand in `node`; `choose` hears the number of a face or, with `everybody`, ALL. */
  constructor(zone, node, choose, everybody = false) {
    Object.assign(this, { zone, node, choose, everybody, buttons: new Map() });
  }

  clear() {
    this.buttons.clear();
    this.node.replaceChildren();
    this.zone.boxes.replaceChildren();
  }

  /* Once a photograph: a button that is in use must not be replaced. */
  draw({ found, width, height }) {
    if (this.buttons.size || found.length < 2) return;
    const { visible, boxes } = this.zone;
    const faces = found.map(({ box: [left, top, wide, high], index }) => {
      const button = this.button(index, `${index + 1}`);
      if (visible) {
        // by the middle, since a small face's button is larger than the face
        button.style.left = `${100 * (left + wide / 2) / width}%`;
        button.style.top = `${100 * (top + high / 2) / height}%`;
        button.style.width = `${100 * wide / width}%`;
        button.style.height = `${100 * high / height}%`;
        button.classList.toggle('low', top + high / 2 > height / 2);
      }
      return button;
    });
    for (const index of faces.keys()) this.name(index, '');
    if (visible) boxes.replaceChildren(...faces);
    const how = visible ? 'choose one in the photograph' : 'choose one:';
    const text = `${found.length} faces; ${how}`;
    const rest = this.everybody ? [this.button(ALL, 'Everybody')] : [];
    this.node.replaceChildren(
      element('span', { textContent: visible && this.everybody ? `${text}, or` : text }),
      ...(visible ? [] : faces), ...rest);
  }

  button(which, text) {
    const button = element('button', { type: 'button', className: 'quiet' }, named(text));
    button.addEventListener('click', () => this.choose(which));
    this.buttons.set(which, button);
    return button;
  }

  /* Marks the face that counts; '' is the largest. */
  mark(which) {
    for (const [key, button] of this.buttons) {
      button.setAttribute('aria-pressed', String(key) === String(which || 0));
    }
  }

  /* Says who a face is: `name` in its box, where it fits, or `words` to those who hear it. */
  name(index, name, words = name) {
    const button = this.buttons.get(index);
    if (!button) return;
    if (name) {
      const shown = named(name);
      button.replaceChildren(shown);
      if (shown.scrollWidth > shown.clientWidth) button.replaceChildren(named(`${index + 1}`));
    }
    const count = this.buttons.size - this.buttons.has(ALL);
    const said = `Face ${index + 1} of ${count}`;
    button.setAttribute('aria-label', words ? `${said}: ${words}` : said);
  }
}
