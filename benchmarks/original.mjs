// The original product's scheme in the language and with the library (WebCrypto) that it was written
// in: one PBKDF2 for each operation.
//
//     node benchmarks/original.mjs CHARACTERS TIMES
//
// prints the processor time of an encryption and of a decryption, in microseconds.

const crypto = globalThis.crypto ?? (await import("node:crypto")).webcrypto;
const { subtle } = crypto;
const MASTER_KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const encoder = new TextEncoder();
const decoder = new TextDecoder();

async function keyOf(salt) {
  const material = await subtle.importKey(
    "raw", encoder.encode(MASTER_KEY + salt), "PBKDF2", false, ["deriveKey"],
  );
  return subtle.deriveKey(
    { name: "PBKDF2", salt: encoder.encode(salt), iterations: 100_000, hash: "SHA-256" },
    material, { name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"],
  );
}

async function encrypt(text, salt) {
  const iv = crypto.getRandomValues(new Uint8Array(12));
  const sealed = await subtle.encrypt(
    { name: "AES-GCM", iv }, await keyOf(salt), encoder.encode(text),
  );
  return Buffer.concat([iv, new Uint8Array(sealed)]).toString("base64");
}

async function decrypt(token, salt) {
  const data = Buffer.from(token, "base64");
  const opened = await subtle.decrypt(
    { name: "AES-GCM", iv: data.subarray(0, 12) }, await keyOf(salt), data.subarray(12),
  );
  return decoder.decode(opened);
}

async function timed(operation, times) {
  const before = process.cpuUsage();
  for (let number = 0; number < times; number++) {
    await operation(String(number));
  }
  const { user, system } = process.cpuUsage(before);
  return (user + system) / times;
}

const [characters, times] = process.argv.slice(2).map(Number);
const text = "x".repeat(characters);
const tokens = [];
for (let number = 0; number < times; number++) {
  tokens.push(await encrypt(text, String(number)));
}
const encryption = await timed((salt) => encrypt(text, salt), times);
const decryption = await timed(async (salt) => {
  if ((await decrypt(tokens[Number(salt)], salt)) !== text) {
    throw new Error("another text");
  }
}, times);
console.log(JSON.stringify({ encrypt: encryption, decrypt: decryption }));
