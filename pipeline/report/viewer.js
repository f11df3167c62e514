"use strict";
// The slice viewer. What is shown follows from the controls alone: draw() reads them all.
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const {
    names, rows, columns, slices,
    windows,  // centre and width in HU, by name
    difference_hu: DIFFERENCE,  // at the ends of the colour scale
  } = JSON.parse(document.getElementById("viewer-data").textContent);
  const LAST = names.length - 1;
  const PAGE = 5;  // slices
  const NOTCH = 50;  // pixels of the wheel that are a slice; a touchpad sends many small turns
  const SLACK = 3;  // pixels that a pointer may move in a click
  const COLOURS = [[179, 88, 6], [253, 184, 99], [247, 247, 247], [178, 171, 210], [84, 39, 136]];

  const find = id => document.getElementById(`viewer-${id}`);
  const canvas = find("canvas"), screen = canvas.getContext("2d", {alpha: false});
  const [slice, wipe, model, difference] = ["slice", "wipe", "model", "difference"].map(find);
  const unpacked = new Map();
  let drawings = 0;

  // The inverse of pack() in volumes.py.
  async function unpack(text) {
    const packed = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const size = rows * columns, hu = new Int16Array(size);
    for (let i = 0; i < size; i++) {
      const folded = bytes[i] | bytes[size + i] << 8, residual = folded >>> 1 ^ -(folded & 1);
      const x = i % columns, y = i >= columns;
      const left = x ? hu[i - 1] : y ? hu[i - columns] : 0, above = y ? hu[i - columns] : left;
      hu[i] = residual + (left + above >> 1);
    }
    return hu;
  }

  function image(z, number) {
    const key = `${z}/${number}`;
    if (!unpacked.has(key)) unpacked.set(key, unpack(slices[z][number]));
    return unpacked.get(key);
  }

  const chosenWindow = () => root.querySelector("input[name=window]:checked").value;

  function grey(hu) {
    const [centre, width] = windows[chosenWindow()];
    const value = 255 * (hu - centre + width / 2) / width;
    return [value, value, value];
  }

  function diverging(change) {
    const position = Math.min(Math.max(2 + 2 * change / DIFFERENCE, 0), 4), first = Math.min(Math.floor(position), 3);
    return COLOURS[first].map((low, i) => low + (position - first) * (COLOURS[first + 1][i] - low));
  }

  const stops = () => [0, Number(model.value), LAST];

  // The slider goes from stop to stop; on the way the next image is wiped over the one before, from the left.
  function wiped() {
    const position = Number(wipe.value), before = Math.min(Math.floor(position), 1);
    const [right, left] = [stops()[before], stops()[before + 1]];
    return {left, right, edge: Math.round((position - before) * columns)};
  }

  async function draw() {
    const drawing = ++drawings, z = Number(slice.value), {left, right, edge} = wiped();
    const [onLeft, onRight, full] = await Promise.all([left, right, LAST].map(number => image(z, number)));
    if (drawing !== drawings) return;  // the controls were moved meanwhile
    const pixels = screen.createImageData(columns, rows), data = pixels.data;
    const colour = difference.checked ? diverging : grey;
    for (let i = 0; i < full.length; i++) {
      const hu = (i % columns < edge ? onLeft : onRight)[i];
      const [red, green, blue] = colour(difference.checked ? hu - full[i] : hu);
      data[4 * i] = red; data[4 * i + 1] = green; data[4 * i + 2] = blue; data[4 * i + 3] = 255;
    }
    screen.putImageData(pixels, 0, 0);
    tell(z, left, right, edge);
  }

  function tell(z, left, right, edge) {
    const minus = difference.checked ? " minus full dose" : "";
    find("left").textContent = edge > 0 ? names[left] + minus : "";
    find("right").textContent = edge < columns ? names[right] + minus : "";
    find("edge").style.left = `${100 * edge / columns}%`;
    find("edge").hidden = edge === 0 || edge === columns;
    find("slice-told").textContent = `${z + 1} of ${slices.length}`;
    find("scale").hidden = !difference.checked;
    const shown = edge === 0 ? names[right] : edge === columns ? names[left] : `${names[left]} | ${names[right]}`;
    const label = `Slice ${z + 1} of ${slices.length}: ${shown}${minus}`, [centre, width] = windows[chosenWindow()];
    canvas.setAttribute("aria-label", label);
    find("caption").textContent = label + (difference.checked
      ? `, from orange at -${DIFFERENCE} HU to purple at +${DIFFERENCE} HU.`
      : `, in the ${chosenWindow()} window (centre ${centre} HU, width ${width} HU).`);
    root.dataset.drawn = [z, left, right, edge, difference.checked].join(" ");
  }

  function move(input, steps) {
    input.value = Number(input.value) + steps * Number(input.step);
    draw();
  }

  // A drag wipes the two images of which the slider shows something: the edge between them follows the pointer.
  let drag = null, turned = 0;

  function wipeTo(event) {
    if (!drag || Math.abs(event.clientX - drag.start) < SLACK && !drag.wipes) return;
    drag.wipes = true;
    const box = canvas.getBoundingClientRect(), edge = (event.clientX - box.left) / box.width;
    wipe.value = drag.right + Math.min(Math.max(edge, 0), 1);
    draw();
  }

  async function readOut(event) {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * columns);
    const y = Math.floor((event.clientY - box.top) / box.height * rows);
    if (x < 0 || y < 0 || x >= columns || y >= rows) return;
    const z = Number(slice.value), values = await Promise.all(stops().map(number => image(z, number)));
    const readings = stops().map((number, i) => `${names[number]} ${values[i][y * columns + x]} HU`);
    find("told").textContent = `Row ${y}, column ${x}: ${readings.join(", ")}`;
  }

  function drawScale() {
    const scale = find("scale").querySelector("canvas"), context = scale.getContext("2d", {alpha: false});
    for (let x = 0; x < scale.width; x++) {
      context.fillStyle = `rgb(${diverging(DIFFERENCE * (2 * x / (scale.width - 1) - 1)).map(Math.round)})`;
      context.fillRect(x, 0, 1, 1);
    }
  }

  const KEYS = {
    ArrowUp: [slice, 1], ArrowDown: [slice, -1], PageUp: [slice, PAGE], PageDown: [slice, -PAGE],
    Home: [slice, -slices.length], End: [slice, slices.length], ArrowRight: [wipe, 5], ArrowLeft: [wipe, -5],
  };
  canvas.addEventListener("keydown", event => {
    if (event.key === "Escape") canvas.blur();
    if (!(event.key in KEYS) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move(...KEYS[event.key]);
  });
  canvas.addEventListener("wheel", event => {
    if (document.activeElement !== canvas || event.ctrlKey) return;  // then it scrolls or zooms the page
    event.preventDefault();
    turned += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : Math.sign(event.deltaY) * NOTCH;
    if (Math.abs(turned) < NOTCH) return;
    move(slice, -Math.sign(turned));
    turned = 0;
  }, {passive: false});
  canvas.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    drag = {start: event.clientX, right: Math.max(Math.ceil(Number(wipe.value)) - 1, 0), wipes: false};
    canvas.setPointerCapture(event.pointerId);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { drag = null; });
  canvas.addEventListener("pointermove", event => { wipeTo(event); readOut(event); });
  root.addEventListener("input", draw);
  for (const button of root.querySelectorAll(".stops button")) {
    button.addEventListener("click", () => { wipe.value = button.value; draw(); });
  }
  drawScale();
  draw();
})();
