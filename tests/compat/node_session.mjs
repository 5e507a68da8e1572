// What node-redis has to find; run by redis_clients.py with the port as its argument.
import assert from "node:assert/strict";
import { createClient } from "redis";

for (const RESP of [2, 3]) {
  const client = createClient({ socket: { host: "127.0.0.1", port: Number(process.argv[2]) }, RESP });
  client.on("error", (error) => {
    console.error(String(error));
    process.exit(1);
  });
  await client.connect();
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set("node", "1"), "OK");
  assert.equal(await client.incr("node"), 2);
  assert.deepEqual(await client.mGet(["node", "missing"]), ["2", null]);
  assert.deepEqual(await Promise.all([client.get("node"), client.exists("node"), client.del("node")]), ["2", 1, 1]);
  const one = Buffer.from(new Float32Array([1, 0, 0, 0]).buffer);
  assert.equal(await client.sendCommand(["SKEG.VINDEX.CREATE", "node", "4", "f32", "flat"]), "OK");
  assert.equal(await client.sendCommand(["SKEG.VSET", "node", "7", one]), "OK");
  const found = await client.sendCommand(["SKEG.VSEARCH", "node", "1", "0", one]);
  assert.deepEqual([String(found[0]), Number(found[1])], ["7", 1]);
  assert.equal(await client.sendCommand(["SKEG.VINDEX.DROP", "node"]), "OK");
  await assert.rejects(client.sendCommand(["NONSENSE"]), /unknown command/);
  await client.close();
}
console.log("node-redis: nothing failed");
