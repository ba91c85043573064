// The files beside the page. Each is a script, `give("…")`: safetensors, deflated, in base64.
const about = JSON.parse(document.getElementById("about").textContent);
const rungs = new Map(about.rungs.map((rung) => [rung.rung, rung]));
const ARRAYS = { U8: Uint8Array, I8: Int8Array, I16: Int16Array, I32: Int32Array, F32: Float32Array, F64: Float64Array };
const loaded = new Map();
window.give = (text) => document.currentScript.give(text);

// The arrays of a file, by name; what they are about is at `about`.
function load(path) {
  if (!loaded.has(path)) loaded.set(path, given(path).then(unpacked));
  return loaded.get(path);
}

function given(path) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `pages/${path.split("/").map(encodeURIComponent).join("/")}.js`;
    script.give = resolve;
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`pages/${path}.js is missing: copy all of pages/ beside index.html`));
    document.head.append(script);
  });
}

async function unpacked(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const file = await new Response(inflated).arrayBuffer();
  const start = 8 + Number(new DataView(file).getBigUint64(0, true));
  const { __metadata__: told = {}, ...tensors } = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, start - 8)));
  const arrays = { about: Object.fromEntries(Object.entries(told).map(([key, value]) => [key, JSON.parse(value)])) };
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(tensors)) {
    const Kind = ARRAYS[dtype];
    arrays[name] = Object.assign(new Kind(file, start + from, (to - from) / Kind.BYTES_PER_ELEMENT), { shape });
  }
  return arrays;
}

// The i-th row of an array of two axes or more.
function rowOf(array, i) {
  const size = array.length / array.shape[0];
  return array.subarray(i * size, (i + 1) * size);
}

const fileOf = (rung, name) => load(`rungs/${rung.rung}/${name}`);

// Where a latent's own file begins, and its place in there.
function fileStart(rung, latent) {
  const start = rung.edges.findLast((edge) => edge <= latent);
  return start + Math.floor((latent - start) / about.per_file) * about.per_file;
}

// See all of an index that stands beside any of these keys, which rise: the key, the file, the place in there.
async function postings(rung, which, keys, see) {
  const least = (await fileOf(rung, "list")).about[which] ?? [];
  const wanted = new Set(keys), numbers = new Set(keys.map((key) => least.findLastIndex((first) => first <= key)));
  for (const number of numbers) {
    if (number < 0) continue;
    const file = await fileOf(rung, `${which}/${number}`);
    for (let i = 0; i < file.keys.length; i++) if (wanted.has(file.keys[i])) see(file.keys[i], file, i);
  }
}
