// How latents are found. Each search gives their numbers, what to say of each, and what was done.
const MOST_TOKENS = 40;
const same = (text) => text.trim().toLowerCase() || text;

const SEARCHES = {
  number: {
    hint: "The latent of this number, and those whose numbers begin with it.",
    async find(rung, asked) {
      const start = asked.trim().replaceAll(/[,.\s#]/g, "");
      if (!/^\d+$/.test(start)) return { latents: [], told: "A latent’s number has digits only." };
      const latents = Array.from({ length: rung.num_latents }, (_, i) => i).filter((i) => String(i).startsWith(start));
      return { latents, told: "" };
    },
  },
  token: {
    hint: "Latents whose strongest examples peak on the token, or that raise its logit most; without regard to case and blanks around it.",
    async find(rung, asked) {
      const wanted = same(asked), parts = [];
      const size = isKnown(0) ? vocabulary.starts.length - 1 : 0;
      let tokens = size ? [] : [Number(asked)];
      for (let token = 0; token < size; token++) {
        const text = textOf(token);
        if (text === null) continue;
        if (same(text) === wanted || visible(text) === asked) tokens.push(token);
        else if (text.toLowerCase().includes(wanted)) parts.push(token);
      }
      const isWhole = tokens.length > 0;
      if (!isWhole) tokens = parts.sort((a, b) => textOf(a).length - textOf(b).length || a - b).slice(0, MOST_TOKENS).sort((a, b) => a - b);
      const scores = new Map(), notes = new Map();
      const add = (latent, score, note) => {
        scores.set(latent, (scores.get(latent) ?? 0) + score);
        notes.set(latent, [...(notes.get(latent) ?? []), note]);
      };
      for (const { file, i, latent, key } of await postings(rung, "peaks", tokens)) {
        add(latent, 100 * file.counts[i], `peaks on ${quoted(key)} in ${file.counts[i]}`);
      }
      for (const { file, i, latent, key } of await postings(rung, "promoted", tokens)) {
        add(latent, 1 / (1 + file.ranks[i]), `raises ${quoted(key)} (${file.ranks[i] + 1}.)`);
      }
      const said = tokens.length ? `${isWhole ? "" : "no such token; those with it in them: "}${tokens.slice(0, 12).map(quoted).join(" ")}${tokens.length > 12 ? " …" : ""}` : "no such token";
      return { latents: byScore(scores), notes, told: said };
    },
  },
  text: {
    hint: "Latents with one of their strongest examples where the text stands, first those that peak within it; without regard to case.",
    async find(rung, asked, isStale) {
      const wanted = asked.toLowerCase(), hits = new Map();
      for (let number = 0; number < about.num_sequences; number++) {
        const found = places(await sequence(number), wanted);
        if (found.length) hits.set(number, found);
        if (isStale()) return null;
      }
      const scores = new Map(), within = new Map(), around = new Map();
      for (const { key, file, i, latent } of await postings(rung, "text", [...hits.keys()])) {
        const peak = file.positions[i], start = file.starts[i];
        const near = hits.get(key).filter(([from, to]) => start < to && from < start + rung.window);
        if (!near.length) continue;
        const isWithin = near.some(([from, to]) => from <= peak && peak < to), counts = isWithin ? within : around;
        counts.set(latent, (counts.get(latent) ?? 0) + 1);
        scores.set(latent, (scores.get(latent) ?? 0) + (isWithin ? 1000 : 1));
      }
      const notes = new Map([...scores.keys()].map((latent) => [latent, [
        within.has(latent) ? `peaks within it in ${within.get(latent)}` : "",
        around.has(latent) ? `near it in ${around.get(latent)}` : ""].filter(Boolean)]));
      const total = [...hits.values()].reduce((sum, found) => sum + found.length, 0);
      return { latents: byScore(scores), notes, told: `stands ${count(total)} times in ${count(about.num_tokens)} tokens` };
    },
  },
  explanation: {
    hint: "Latents whose explanation has all these words, without regard to case.",
    async find(rung, asked) {
      const own = await explanations(rung), words = asked.toLowerCase().split(/\s+/).filter(Boolean);
      const latents = own.latents.filter((latent) => {
        const text = own.text(latent).toLowerCase();
        return words.every((word) => text.includes(word));
      });
      return { latents: [...latents], told: own.latents.length ? `of ${count(own.latents.length)} explained` : "nothing is explained yet: sae-dist explain does that" };
    },
  },
};

const quoted = (token) => `“${named(token)}”`;
const byScore = (scores) => [...scores.keys()].sort((a, b) => scores.get(b) - scores.get(a) || a - b);

// From which token to which a text stands in a sequence.
function places(tokens, wanted) {
  const parts = pieces(tokens).map((text) => text.toLowerCase()), joined = parts.join(""), found = [];
  let at = joined.indexOf(wanted), token = 0, end = 0;
  for (; at >= 0; at = joined.indexOf(wanted, at + 1)) {
    while (end + parts[token].length <= at) end += parts[token++].length;
    let last = token, reached = end;
    while (reached < at + wanted.length) reached += parts[last++].length;
    found.push([token, last]);
  }
  return found;
}

const explained = new Map();
function explanations(rung) {
  if (!explained.has(rung.rung)) explained.set(rung.rung, fileOf(rung, "explanations").then((file) => {
    const places = new Map(Array.from(file.latents, (latent, i) => [latent, i])), decoder = new TextDecoder();
    const at = (latent, found) => places.has(latent) ? found(places.get(latent)) : undefined;
    return {
      latents: file.latents, scorers: file.about.scorers,
      text: (latent) => at(latent, (i) => decoder.decode(file.bytes.subarray(file.starts[i], file.starts[i + 1]))) ?? "",
      author: (latent) => at(latent, (i) => file.about.authors[file.authors[i]]),
      score: (latent, scorer) => at(latent, (i) => file.scores[i * file.about.scorers.length + scorer]) ?? NaN,
    };
  }));
  return explained.get(rung.rung);
}
