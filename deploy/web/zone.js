/* Fields that take photographs: dropped, chosen or from the camera. */

import { byId, element, plural } from './dom.js';
import { photographed } from './camera.js';

const PICTURES = 'image/jpeg,image/png,image/webp,image/bmp,image/tiff';
const MOST_SHOWN = 14; // with one place for how many more there are, three rows
const RATIO = 3 / 2; // of a zone's sides

/* [files that may be pictures, what is to be said of the others] */
function sorted(files) {
  const pictures = files.filter((file) => !file.type || file.type.startsWith('image/'));
  const others = files.filter((file) => !pictures.includes(file)).map((file) => file.name);
  if (!others.length) return [pictures, []];
  const [first] = others;
  const said = others.length === 1
    ? `${first} is no picture` : `${first} and ${others.length - 1} more are no pictures`;
  return [pictures, [said]];
}

/* [files, what is to be said] of a drop; a folder would look like a file that cannot be read. */
function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  const folders = entries.filter((entry) => entry?.isDirectory).map((entry) => entry.name);
  const files = [...transfer.files].filter((file) => !folders.includes(file.name));
  const said = folders.length ? ['a folder is not read; choose the files in it'] : [];
  if (!files.length && !folders.length) said.push('that is no file; save the picture first');
  return [files, said];
}

export class Zone {
  /* `title` is what the field is for; `most` photographs are taken, more go to `spare`, which
     returns those that it leaves. */
  constructor(id, { title, most = 1, several = most > 1, spare = (files) => files, changed }) {
    Object.assign(this, { title, most, spare, changed, photographs: [] });
    this.node = byId(id);
    this.input = element('input', {
      type: 'file', id: `${id}-file`, accept: PICTURES, multiple: several, className: 'unseen',
    });
    this.label = element('label', { htmlFor: `${id}-file` });
    this.stage = element('div', { className: 'stage' });
    this.boxes = element('div', { className: 'boxes' });
    this.node.append(this.stage, this.input, this.label, this.boxes);
    const camera = element('button', {
      type: 'button', className: 'quiet', textContent: 'Use the camera',
      'aria-label': `Use the camera: ${title}`,
    });
    this.said = element('span', { className: 'said', role: 'status' });
    this.node.after(element('div', { className: 'under' }, camera, this.said));
    camera.addEventListener('click', async () => {
      const file = await photographed();
      if (file) this.take([file]);
    });
    this.input.addEventListener('change', () => {
      if (this.input.files.length) this.take([...this.input.files]);
      this.input.value = ''; // so that the same file can be chosen again
    });
    this.listen();
    this.draw();
  }

  listen() {
    for (const type of ['dragenter', 'dragover']) {
      this.node.addEventListener(type, () => this.node.classList.add('over'));
    }
    for (const type of ['dragleave', 'drop']) {
      this.node.addEventListener(type, () => this.node.classList.remove('over'));
    }
    this.node.addEventListener('drop', (event) => {
      event.preventDefault();
      event.stopPropagation();
      const [files, said] = dropped(event.dataTransfer);
      this.take(files, said);
    });
  }

  take(files, remarks = []) {
    const [pictures, said] = sorted(files);
    const left = pictures.length > this.most ? this.spare(pictures.slice(this.most)) : [];
    if (left.length) said.push(`${plural(left.length, 'photograph')} left out`);
    this.said.textContent = [...remarks, ...said].join('; ');
    if (!pictures.length) return;
    this.photographs = pictures.slice(0, this.most);
    this.draw();
    this.changed();
  }

  clear() {
    this.photographs = [];
    this.said.textContent = '';
    this.draw();
  }

  draw() {
    const { photographs } = this;
    const names = photographs.map((file) => file.name);
    this.node.classList.toggle('full', photographs.length > 0);
    this.boxes.replaceChildren();
    for (const picture of this.stage.querySelectorAll('img')) URL.revokeObjectURL(picture.src);
    this.stage.className = `stage ${photographs.length > 1 ? 'several' : ''}`;
    for (const part of [this.stage, this.boxes]) part.removeAttribute('style');
    const shown = photographs.slice(0, MOST_SHOWN).map((file) => this.picture(file));
    if (photographs.length > MOST_SHOWN) {
      shown.push(element('span', { textContent: `+ ${photographs.length - MOST_SHOWN}` }));
    }
    this.stage.replaceChildren(...shown);
    this.label.replaceChildren(...(names.length
      ? [element('span', { className: 'unseen',
        textContent: `${this.title}: ${names.join(', ')}. Choose again` })]
      : [element('strong', { textContent: this.title }), ' ',
        element('small', { textContent: 'drop here or click to choose' })]));
  }

  picture(file) {
    const picture = element('img', { alt: '', src: URL.createObjectURL(file) });
    picture.addEventListener('load', () => {
      if (this.photographs.length === 1) this.fit(picture.naturalWidth, picture.naturalHeight);
    });
    picture.addEventListener('error', () => {
      URL.revokeObjectURL(picture.src);
      picture.replaceWith(element('span', {},
        element('bdi', { textContent: file.name }),
        element('small', { textContent: 'cannot be shown by this browser' })));
    });
    return picture;
  }

  get visible() {
    return this.stage.querySelector('img') !== null;
  }

  /* Photograph and boxes as large as the zone allows. */
  fit(width, height) {
    const wide = Math.min(1, width / height / RATIO);
    const high = Math.min(1, RATIO * height / width);
    for (const { style } of [this.stage, this.boxes]) {
      style.inset = `${50 * (1 - high)}% ${50 * (1 - wide)}%`;
    }
  }
}
