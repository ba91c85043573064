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
      const wanted = same(asked), parts = [], isMarked = /[↵␍⇥␣⟨]/.test(asked); // as tokens are shown
      const size = isKnown(0) ? vocabulary.starts.length - 1 : 0;
      let tokens = size ? [] : [Number(asked)];
      for (let token = 0; token < size; token++) {
        const text = textOf(token);
        if (text === null) continue;
        if (same(text) === wanted || (isMarked && visible(text).includes(asked))) tokens.push(token);
        else if (text.toLowerCase().includes(wanted)) parts.push(token);
      }
      const isWhole = tokens.length > 0;
      if (!isWhole) tokens = parts.sort((a, b) => textOf(a).length - textOf(b).length || a - b).slice(0, MOST_TOKENS).sort((a, b) => a - b);
      const scores = new Map(), why = new Map();
      const add = (latent, score, ...reason) => {
        scores.set(latent, (scores.get(latent) ?? 0) + score);
        why.has(latent) ? why.get(latent).push(reason) : why.set(latent, [reason]);
      };
      await postings(rung, "peaks", tokens, (token, { latents, counts }, i) => add(latents[i], 100 * counts[i], token, counts[i]));
      await postings(rung, "promoted", tokens, (token, { latents, ranks }, i) => add(latents[i], 1 / (1 + ranks[i]), token));
      const note = (latent) => why.get(latent).map(([token, number]) => (number ? `peaks on ${quoted(token)} ${times(number)}` : `raises ${quoted(token)}`)).join(", ");
      const said = tokens.length ? `${isWhole ? "" : "no such token; those with it in them: "}${tokens.slice(0, 12).map(quoted).join(" ")}${tokens.length > 12 ? " …" : ""}` : "no such token";
      return { latents: byScore(scores), note, told: said };
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
      await postings(rung, "text", [...hits.keys()], (number, { latents, positions, starts }, i) => {
        const latent = latents[i], peak = positions[i], start = starts[i];
        let isNear = false, isWithin = false;
        for (const [from, to] of hits.get(number)) {
          isNear ||= start < to && from < start + rung.window;
          isWithin ||= from <= peak && peak < to;
        }
        if (!isNear) return;
        const counts = isWithin ? within : around;
        counts.set(latent, (counts.get(latent) ?? 0) + 1);
        scores.set(latent, (scores.get(latent) ?? 0) + (isWithin ? 1000 : 1));
      });
      const note = (latent) => [
        within.has(latent) ? `peaks within it ${times(within.get(latent))}` : "",
        around.has(latent) ? `is near it ${times(around.get(latent))}` : ""].filter(Boolean).join(", ");
      const total = [...hits.values()].reduce((sum, found) => sum + found.length, 0);
      return { latents: byScore(scores), note, told: `the text stands there ${times(total)}` };
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

const times = (number) => (number === 1 ? "once" : `${count(number)} times`);
const quoted = (token) => `“${named(token)}”`;
const byScore = (scores) => [...scores.keys()].sort((a, b) => scores.get(b) - scores.get(a) || a - b);

// From which token to which a text stands in a sequence.
function places(tokens, wanted) {
  const parts = pieces(tokens), joined = parts.join("").toLowerCase(), found = [];
  let token = 0, end = 0;
  for (let at = joined.indexOf(wanted); at >= 0; at = joined.indexOf(wanted, at + 1)) {
    const sizeOf = (i) => parts[i].toLowerCase().length;
    while (end + sizeOf(token) <= at) end += sizeOf(token++);
    let last = token, reached = end;
    while (reached < at + wanted.length) reached += sizeOf(last++);
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
