// Writes static/vendor/bootstrap-<version>/: the parts of Bootstrap that the templates and
// scripts use, and its license. Run `npm run build` after using a new Bootstrap class.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import esbuild from "esbuild";
import { PurgeCSS } from "purgecss";
import * as sass from "sass";

const root = fileURLToPath(new URL("..", import.meta.url));
const bootstrap = `${root}node_modules/bootstrap`;
const { version } = JSON.parse(await readFile(`${bootstrap}/package.json`, "utf8"));
const target = `${root}static/vendor/bootstrap-${version}`;
const banner = `/*! Bootstrap v${version}, MIT license, see LICENSE */`;

await mkdir(target, { recursive: true });
await copyFile(`${bootstrap}/LICENSE`, `${target}/LICENSE`);
await buildStyles();
await buildScript();

async function buildStyles() {
  const { css } = sass.compile(`${root}frontend-build/bootstrap.scss`, {
    loadPaths: [`${root}node_modules`],
    style: "compressed",
    quietDeps: true,
    silenceDeprecations: ["import"],
  });
  const [used] = await new PurgeCSS().purge({
    content: [
      `${root}templates/{*,posts/*}.html`,
      `${root}static/js/*.js`,
      `${bootstrap}/js/src/{modal,util/*}.js`,
    ],
    css: [{ raw: css }],
    safelist: ["data-bs-theme"],
    variables: true,
  });
  const { code } = await esbuild.transform(used.css, { loader: "css", minify: true, legalComments: "none" });
  assertLoadsNothing(code);
  await writeFile(`${target}/bootstrap.min.css`, `${banner}\n${code}`);
}

function assertLoadsNothing(css) {
  if (css.includes("url(")) throw new Error("The styles contain url(), which the content security policy forbids");
}

async function buildScript() {
  await esbuild.build({
    entryPoints: [`${root}frontend-build/bootstrap.js`],
    outfile: `${target}/bootstrap.esm.min.js`,
    bundle: true,
    format: "esm",
    minify: true,
    target: "es2022",
    banner: { js: banner },
    legalComments: "none",
  });
}
