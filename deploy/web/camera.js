/* A photograph from the camera, in a dialog. */

import { byId } from './dom.js';

const REFUSALS = {
  NotAllowedError: 'This page may not use the camera. Allow it in the settings of the browser for '
    + 'this page, or choose a file instead.',
  NotFoundError: 'No camera is found; choose a file instead.',
  NotReadableError: 'The camera does not answer; perhaps another program uses it.',
};
const NOT_SECURE = 'Browsers give the camera to pages over HTTPS or from this machine only; '
  + 'choose a file instead.';

async function open(video) {
  if (!navigator.mediaDevices) throw new Error(NOT_SECURE);
  const wanted = { width: { ideal: 1280 }, facingMode: 'user' };
  const stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
  video.srcObject = stream;
  return stream;
}

function still(video) {
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  return new Promise((resolve) => {
    canvas.toBlob((blob) => resolve(new File([blob], 'camera.jpg', { type: 'image/jpeg' })),
      'image/jpeg', 0.95);
  });
}

function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/* A File, or null if somebody thought better of it or there is no camera. */
export function photographed() {
  const [dialog, video, shoot, said] = ['camera', 'camera-video', 'shoot', 'camera-said'].map(byId);
  return new Promise((resolve) => {
    let stream = null;
    const taken = async () => {
      resolve(await still(video));
      dialog.close();
    };
    const ready = () => {
      shoot.disabled = false;
      shoot.focus();
    };
    const refused = (error) => {
      said.textContent = REFUSALS[error.name] || error.message;
      video.hidden = true;
    };
    shoot.disabled = true;
    video.hidden = false;
    said.textContent = '';
    video.addEventListener('playing', ready, { once: true });
    shoot.addEventListener('click', taken);
    dialog.addEventListener('close', () => {
      shoot.removeEventListener('click', taken);
      video.removeEventListener('playing', ready);
      if (stream) stop(stream);
      stream = null;
      video.srcObject = null;
      resolve(null); // of no effect after a picture
    }, { once: true });
    dialog.showModal();
    open(video).then((opened) => {
      if (dialog.open) stream = opened;
      else stop(opened); // closed while the browser asked
    }, refused);
  });
}
