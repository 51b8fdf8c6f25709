// Drives two pages of the live table in Chromium, and holds them to what the database says.
//
//   node pages.mjs <directory of the programs> <directory for screenshots>

import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const [programs, screenshots] = process.argv.slice(2);
const TIMEOUT = 20_000;
const scratch = await mkdtemp(join(tmpdir(), "live-table-"));
const home = join(scratch, "home");
const database = join(home, "airports.db");
const running = new Set();

// ---- the programs -----------------------------------------------------------------------------------------------

/// Starts a program; `ready` is its first line, `ended` its exit code or signal.
async function start(name, ...words) {
  const child = spawn(join(programs, name), words, { stdio: ["pipe", "pipe", "inherit"] });
  running.add(child);
  const ended = new Promise((resolve) => child.once("exit", (code, signal) => resolve(code ?? signal)));
  ended.then(() => running.delete(child));
  const line = new Promise((resolve) => createInterface({ input: child.stdout }).once("line", resolve));
  const early = ended.then((how) => Promise.reject(new Error(`${name} ended before it was ready: ${how}`)));
  const ready = await Promise.race([line, early]);
  early.catch(() => {});
  return { child, ended, ready };
}

async function serve(port) {
  const server = await start("live-table", "--in", home, "--port", port);
  const url = server.ready.replace("Live table: ", "");
  return { ...server, url, port: new URL(url).port };
}

/// Runs a statement as the other program; the rows that it answers.
async function sql(statement) {
  const { stdout } = await promisify(execFile)(join(programs, "other-program"), [database, "run", statement]);
  return stdout.split("\n").slice(0, -1);
}

// ---- the pages --------------------------------------------------------------------------------------------------

function check(condition, message) {
  if (!condition) throw new Error(message);
}

/// Waits until a function in the page answers true. It is asked again every frame.
async function until(page, what, condition, given) {
  try {
    await page.waitForFunction(condition, given, { timeout: TIMEOUT });
  } catch (error) {
    throw new Error(`never in the page: ${what}`, { cause: error });
  }
}

async function live(page) {
  await until(page, "that it is live", () => document.querySelector("#connection").dataset.state === "live");
}

async function cellSays(page, id, column, text) {
  await until(
    page,
    `${column} of ${id} is "${text}"`,
    ([id, column, text]) =>
      document.querySelector(`tr[data-id="${id}"] td[data-column="${column}"]`)?.textContent === text,
    [id, column, text],
  );
}

async function rowIsPending(page, id, pending) {
  await until(
    page,
    `${id} is ${pending ? "" : "not "}pending`,
    ([id, pending]) => {
      const row = document.querySelector(`tr[data-id="${id}"]`);
      const badge = row?.querySelector(".badge").dataset.state === "pending";
      return row && row.classList.contains("pending") === pending && badge === pending;
    },
    [id, pending],
  );
}

/// Waits until the page's rows are those of the query, in its order.
async function rowsAre(page, query) {
  const wanted = await sql(query);
  await until(
    page,
    `the rows of ${query}`,
    (wanted) => {
      const shown = [...document.querySelectorAll("tbody tr")].map((row) => row.dataset.id);
      return shown.length === wanted.length && shown.every((id, index) => id === wanted[index]);
    },
    wanted,
  );
}

/// What the server has told a page so far: the names of the events, and for change sets those of their steps.
function told(page) {
  return page.evaluate(() => window.told);
}

/// Runs in each page before its own script, and takes down what `told` answers.
function takeDown() {
  window.told = [];
  const listen = EventSource.prototype.addEventListener;
  EventSource.prototype.addEventListener = function (name, handle) {
    listen.call(this, name, (event) => {
      handle(event);
      window.told.push(name, ...(name === "changes" ? JSON.parse(event.data).steps.map(([kind]) => kind) : []));
    });
  };
}

async function placeOf(page, id) {
  return page.evaluate((id) => [...document.querySelectorAll("tbody tr")].findIndex((row) => row.dataset.id === id), id);
}

/// Edits a cell as a user does, and waits for the server's answer.
async function edit(page, id, column, text) {
  const answered = page.waitForResponse((response) => response.url().endsWith("/edit"), { timeout: TIMEOUT });
  await page.click(`tr[data-id="${id}"] td[data-column="${column}"]`);
  await page.fill("td.editing input", text);
  await page.press("td.editing input", "Enter");
  return (await answered).status();
}

async function toastSays(page, text) {
  await until(page, `a toast that says "${text}"`, (text) => document.querySelector("#toasts").textContent.includes(text), text);
}

async function picture(page, name) {
  await page.screenshot({ path: join(screenshots, `${name}.png`), animations: "disabled" });
}

const began = performance.now();

function pass(behaviour) {
  console.log(`PASS ${behaviour} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
}

// ---- what must hold ---------------------------------------------------------------------------------------------

const BY_CODE = "SELECT iata FROM airports ORDER BY iata LIMIT 100";
const SPRINGS = "city LIKE '%springs%' OR name LIKE '%springs%'";
const BY_NAME = `SELECT iata FROM airports WHERE ${SPRINGS} ORDER BY lower(name), rowid LIMIT 100`;

/// Takes every other row away from that order, and turns the rest around.
const OTHER_HALF_REVERSED = `
  WITH springs AS (SELECT iata AS id, row_number() OVER (ORDER BY lower(name), rowid) AS place FROM airports WHERE ${SPRINGS})
  UPDATE airports SET city = 'Gone', name = iif(place % 2, printf('%d Springs', 999 - place), 'Gone')
  FROM springs WHERE springs.id = iata`;

/// Kills the server and starts it again at the same place.
async function restart(server, pages) {
  server.child.kill("SIGKILL");
  await server.ended;
  for (const page of pages) {
    await until(page, "that it is not live", () => document.querySelector("#connection").dataset.state !== "live");
  }
  await picture(pages[0], "5-reconnecting");
  const next = await serve(server.port);
  for (const page of pages) await live(page);
  return next;
}

async function run(context) {
  let server = await serve(0);
  await context.addInitScript(takeDown);
  const [one, two] = [context.pages()[0], await context.newPage()];
  const problems = [];
  let loads = 0;
  for (const page of [one, two]) {
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("load", () => (loads += 1));
    await page.setViewportSize({ width: 1180, height: 800 });
  }
  await one.goto(server.url);
  await two.goto(`${server.url}/?sort=name&search=springs`);
  for (const page of [one, two]) await live(page);
  await rowsAre(one, BY_CODE);
  await rowsAre(two, BY_NAME);
  await until(one, "how many rows there are", () => document.querySelector("#rows").textContent.startsWith("3,376 rows"));
  await picture(one, "1-table");
  pass("two pages show the database's rows, each sorted and searched in its own way");

  const before = await placeOf(two, "00M");
  check((await edit(one, "00M", "name", "Zephyr Field")) === 202, "the edit was not accepted");
  for (const page of [one, two]) {
    await cellSays(page, "00M", "name", "Zephyr Field");
    await rowIsPending(page, "00M", false);
  }
  await rowsAre(two, BY_NAME);
  check((await placeOf(two, "00M")) > before, "the row has not moved down in the page that is sorted by name");
  check((await sql("SELECT name FROM airports WHERE iata = '00M'"))[0] === "Zephyr Field", "the database has not got the edit");
  pass("an edit in one page shows in the other, moves there under its sort, and is in the database");

  await sql("UPDATE airports SET name = 'Another Springs', city = 'Elsewhere' WHERE iata = '00V'");
  await sql("INSERT INTO airports VALUES ('00A', 'Middle of Springs', 'Nowhere', 'TX', 30.5, -97.25)");
  await sql("DELETE FROM airports WHERE iata = '00R'");
  await one.click("#refresh");
  for (const page of [one, two]) {
    await cellSays(page, "00V", "city", "Elsewhere");
    await cellSays(page, "00A", "name", "Middle of Springs");
  }
  await rowsAre(one, BY_CODE);
  await rowsAre(two, BY_NAME);
  await picture(two, "2-search-and-sort");
  pass("another program's update, insert and delete show in both pages after a refresh");

  await two.click('tr[data-id="00V"] td[data-column="name"]');
  await two.fill("td.editing input", "Half typed");
  const typedAt = await placeOf(two, "00V");
  await sql("UPDATE airports SET name = 'Yet Another Springs', city = 'Somewhere' WHERE iata = '00V'");
  await one.click("#refresh");
  await cellSays(two, "00V", "city", "Somewhere");
  check((await placeOf(two, "00V")) > typedAt, "the row that is edited has not moved");
  const input = two.locator('tr[data-id="00V"] td.editing input');
  check((await input.inputValue()) === "Half typed", "what was being typed is lost");
  check(await input.evaluate((input) => input === document.activeElement), "the field has lost the focus");
  await two.keyboard.press("Escape");
  await cellSays(two, "00V", "name", "Yet Another Springs");
  pass("a row moves under a user who types in it, and he can go on");

  check((await edit(one, "01G", "latitude", "north")) === 422, "a latitude that is no number was accepted");
  await toastSays(one, "a latitude is a number");
  await cellSays(one, "01G", "latitude", "42.7413");
  pass("an edit that can't be is refused at once");

  await one.click("#lock");
  await until(one, "the notice of the lock", () => !document.querySelector("#notice").hidden);
  await edit(one, "01G", "latitude", "123");
  await edit(one, "01J", "name", "Hilliard Sky Ranch");
  for (const id of ["01G", "01J"]) await rowIsPending(one, id, true);
  await cellSays(one, "01G", "latitude", "123.0000");
  await picture(one, "3-pending");
  const refused = 'tr[data-id="01G"]:has([data-state="refused"]) td.refused[data-column="latitude"]';
  await Promise.all([
    // They are gone after some seconds.
    toastSays(one, "a latitude is between -90 and 90"),
    until(one, "the refused cell", (cell) => document.querySelector(cell), refused),
    one.click("#lock"),
  ]);
  await picture(one, "4-refused");
  await cellSays(one, "01G", "latitude", "42.7413");
  for (const id of ["01G", "01J"]) await rowIsPending(one, id, false);
  await cellSays(one, "01J", "name", "Hilliard Sky Ranch");
  check((await sql("SELECT latitude FROM airports WHERE iata = '01G'"))[0] === "42.74134667", "the database has the refused edit");
  pass("an edit that the database refuses is shown as pending, said to be refused, and taken back");

  const holder = await start("other-program", database, "lock");
  check((await edit(one, "00V", "city", "Colorado Springs")) === 202, "the edit was not accepted while the database is locked");
  for (const page of [one, two]) await rowIsPending(page, "00V", true);
  server = await restart(server, [one, two]);
  for (const page of [one, two]) {
    await rowIsPending(page, "00V", true);
    await cellSays(page, "00V", "city", "Colorado Springs");
  }
  check((await sql("SELECT city FROM airports WHERE iata = '00V'"))[0] === "Somewhere", "the locked database was written");
  await until(one, "how many edits are pending", () => document.querySelector("#pending").textContent === "1 pending");
  await picture(one, "6-pending-after-restart");
  holder.child.stdin.end();
  for (const page of [one, two]) await rowIsPending(page, "00V", false);
  check((await sql("SELECT city FROM airports WHERE iata = '00V'"))[0] === "Colorado Springs", "the edit was not delivered");
  await rowsAre(one, BY_CODE);
  await rowsAre(two, BY_NAME);
  pass("an edit that was pending when the server was killed is pending after the restart, and delivered then");

  await one.click('th[data-column="latitude"] button');
  await one.click('th[data-column="latitude"] button');
  await rowsAre(one, "SELECT iata FROM airports ORDER BY latitude DESC, rowid LIMIT 100");
  await one.fill("#search", "hawaii");
  await until(one, "that nothing matches", () => document.querySelectorAll("tbody tr").length === 0 && !document.querySelector("#none").hidden);
  await one.fill("#search", "HONOLULU");
  await rowsAre(one, "SELECT iata FROM airports WHERE name || ' ' || city LIKE '%honolulu%' ORDER BY latitude DESC, rowid");
  await one.fill("#search", "");
  await rowsAre(one, "SELECT iata FROM airports ORDER BY latitude DESC, rowid LIMIT 100");
  await one.click("#more");
  await rowsAre(one, "SELECT iata FROM airports ORDER BY latitude DESC, rowid LIMIT 200");
  pass("a page sorts, searches and shows more without a reload");

  await two.emulateMedia({ colorScheme: "dark" });
  await two.click('tr[data-id="00V"] td[data-column="city"]');
  await picture(two, "7-dark-and-editing");
  await two.keyboard.press("Escape");
  await two.setViewportSize({ width: 420, height: 800 });
  await two.evaluate(() => window.scrollTo(0, 0));
  await picture(two, "8-narrow");

  const toldBefore = (await told(two)).length;
  for (const kind of ["insert", "remove", "move", "update"]) {
    check([...(await told(one)), ...(await told(two))].includes(kind), `no change set had the step ${kind}`);
  }
  check((await told(two)).filter((name) => name === "rows").length === 2, "the rows were sent whole without need");
  await sql(OTHER_HALF_REVERSED);
  await two.click("#refresh");
  await rowsAre(two, BY_NAME);
  check((await told(two)).slice(toldBefore).includes("rows"), "a change of the whole list came as steps");
  pass("small changes come step by step, a change of the whole list as the rows anew");

  await one.click("#lock");
  await until(one, "the notice of the lock", () => !document.querySelector("#notice").hidden);
  const highest = (await sql("SELECT iata FROM airports ORDER BY latitude DESC"))[0];
  check((await edit(one, highest, "city", "North Pole")) === 202, "the edit was not accepted while the database is locked");
  server = await restart(server, [one, two]);
  await rowIsPending(one, highest, true);
  await one.click('#lock[aria-pressed="true"]');
  await rowIsPending(one, highest, false);
  check((await sql(`SELECT city FROM airports WHERE iata = '${highest}'`))[0] === "North Pole", "the edit was not delivered");
  pass("the lock that a page takes outlives the server, too");

  check(loads === 2, "a page was loaded again");
  check(problems.length === 0, `errors in the pages: ${problems.join("; ")}`);
  server.child.kill("SIGINT");
  check((await server.ended) === 0, "the server did not end well");
  pass("the server ends with its pages open, and no page had an error or was reloaded");
}

let context;
try {
  context = await chromium.launchPersistentContext(join(scratch, "profile"), {
    executablePath: "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat(
      ["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    ),
  });
  await run(context);
  console.log(`All behaviours of the pages hold, shown in ${Math.round((performance.now() - began) / 1000)} s.`);
} catch (error) {
  console.error("FAIL", error);
  for (const [index, page] of (context?.pages() ?? []).entries()) {
    await page.screenshot({ path: join(screenshots, `failed-${index}.png`) }).catch(() => {});
  }
  process.exitCode = 1;
} finally {
  await context?.close().catch(() => {});
  for (const child of running) child.kill("SIGKILL");
  await rm(scratch, { recursive: true, force: true });
}
