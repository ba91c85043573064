// Tokens as text. A character that several tokens share stands on the one that ends it.
const MARKS = { "\n": "↵", "\r": "␍", "\t": "⇥" };
const HIDDEN = /[\p{Cc}\p{Co}\p{Cn}\p{Cs}\p{Zl}\p{Zp}]|(?![\u200c\u200d])\p{Cf}|(?! )\p{Zs}/gu;
const exact = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const texts = [];
let vocabulary = null;

// Text in which nothing hides, and nothing turns the order of what follows.
function visible(text) {
  if (/^ +$/.test(text)) return "␣".repeat(text.length);
  return text.replace(HIDDEN, (c) => MARKS[c] ?? `⟨${c.codePointAt(0).toString(16)}⟩`);
}

const bytesOf = (token) => vocabulary.bytes.subarray(vocabulary.starts[token], vocabulary.starts[token + 1]);
const isKnown = (token) => vocabulary && token >= 0 && token + 1 < vocabulary.starts.length;

// A token's own text; null where it is a part of a character.
function textOf(token) {
  if (texts[token] === undefined) {
    try {
      texts[token] = isKnown(token) ? exact.decode(bytesOf(token)) : ` ${token}`;
    } catch {
      texts[token] = null;
    }
  }
  return texts[token];
}

function named(token) {
  const bytes = () => `⟨${Array.from(bytesOf(token), (byte) => byte.toString(16).padStart(2, "0")).join(" ")}⟩`;
  return textOf(token) === null ? bytes() : visible(textOf(token));
}

// The texts of tokens that follow one another.
function pieces(tokens) {
  const found = new Array(tokens.length);
  let decoder = null; // while a character is not whole
  for (let i = 0; i < tokens.length; i++) {
    const whole = textOf(tokens[i]);
    found[i] = whole;
    if (whole !== null && !decoder) continue;
    decoder ??= new TextDecoder("utf-8", { ignoreBOM: true });
    found[i] = decoder.decode(whole === null ? bytesOf(tokens[i]) : new TextEncoder().encode(whole), { stream: true });
    if (found[i] === whole) decoder = null;
  }
  return found;
}

async function sequence(number) {
  const block = await load(`text/${Math.floor(number / about.sequences_per_block)}`);
  return rowOf(block.tokens, number % about.sequences_per_block);
}
