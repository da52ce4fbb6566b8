// Solves the challenge that a busy service offers, before a form is sent; see docs/availability.md. Without this script, or
// if anything fails, the form is sent as it is.
"use strict";
(() => {
  const form = document.querySelector("form[data-challenges]");
  if (!form) return;

  const K = new Int32Array([
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
  ]);
  const H = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
  const W = new Int32Array(64);

  // first returns the first 32 bits of the SHA-256 of the block in W, as a signed number. (crypto.subtle is much slower for
  // short texts, and does not exist without TLS.)
  const first = () => {
    for (let i = 16; i < 64; i++) {
      const x = W[i - 15], y = W[i - 2];
      W[i] = W[i - 16] + W[i - 7] + ((x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ x >>> 3)
        + ((y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ y >>> 10) | 0;
    }
    let [a, b, c, d, e, f, g, h] = H;
    for (let i = 0; i < 64; i++) {
      const t = h + ((e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7)) + (e & f ^ ~e & g) + K[i] + W[i] | 0;
      const u = ((a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10)) + (a & b ^ a & c ^ b & c) | 0;
      h = g; g = f; f = e; e = d + t | 0; d = c; c = b; b = a; a = t + u | 0;
    }
    return a + H[0] | 0;
  };

  // put writes a text of at most 55 bytes into W as the only block of its hash.
  const put = text => {
    W.fill(0, 0, 16);
    for (let i = 0; i < text.length; i++) W[i >> 2] |= text.charCodeAt(i) << 24 - 8 * (i & 3);
    W[text.length >> 2] |= 0x80 << 24 - 8 * (text.length & 3);
    W[15] = 8 * text.length;
  };

  // solve searches for the number, 20 ms at a time, so that the page stays responsive. Comparing 32 bits is enough: another
  // match is unlikely.
  const solve = async ({ algorithm, challenge, maxnumber, salt, signature }) => {
    const want = parseInt(challenge.slice(0, 8), 16) | 0;
    for (let number = 0, pause = performance.now() + 20; number <= maxnumber; number++) {
      put(salt + number);
      if (first() === want) return btoa(JSON.stringify({ algorithm, challenge, number, salt, signature }));
      if (number % 256 === 0 && performance.now() > pause) {
        await new Promise(resume => setTimeout(resume));
        pause = performance.now() + 20;
      }
    }
    return "";
  };

  let working = false;
  addEventListener("pageshow", () => { working = false; });
  form.addEventListener("submit", async event => {
    event.preventDefault();
    if (working) return;
    working = true;
    try {
      const answer = await fetch(form.dataset.challenges, { signal: AbortSignal.timeout(3000) });
      if (answer.status === 200) {
        document.getElementById("news").textContent = "Many people are signing up. This takes a moment.";
        form.elements.solution.value = await solve(await answer.json());
      }
    } catch { // the form is sent without
    }
    form.submit();
  });
})();
