/* The door between JupyterLab and our modules, written by hand: a federated module is no more than this object, so that
 * labspawner needs neither npm nor a build to ship it. JupyterLab calls init() with everything that it shares, and then
 * get('./extension') for our plugins. */
(() => {
  const NAME = '@labspawner/lab';
  const entry = document.currentScript.src;
  let scope = {};

  /* Of several versions of a package take the one that is in use: two copies of JupyterLab's packages in one page would
   * not know each other. */
  async function shared(name) {
    const versions = Object.values(scope[name] || {});
    const chosen = versions.find(version => version.loaded) || versions.find(version => version.eager) || versions[0];
    if (!chosen) {
      throw new Error(`${NAME}: this application does not share ${name}`);
    }
    return (await chosen.get())();
  }

  /* Our modules get the query of this file, a digest of all of them: an upgrade never mixes old ones with new ones. */
  function own(name) {
    const url = new URL(`${name}.js`, entry);
    url.search = new URL(entry).search;
    return import(url.href);
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB[NAME] = {
    init: shareScope => {
      scope = shareScope;
    },
    get: async module => {
      if (module !== './extension') {
        throw new Error(`${NAME} has no module ${module}`);
      }
      const names = ['application', 'apputils', 'coreutils', 'services', 'statusbar', 'translation'];
      const packages = await Promise.all(names.map(name => shared(`@jupyterlab/${name}`)));
      const jupyter = Object.assign({}, ...packages, await shared('@lumino/widgets'));
      const [plugins, watch, words] = await Promise.all(['plugins', 'watch', 'words'].map(own));
      return () => ({ __esModule: true, default: plugins.make(jupyter, watch, words) });
    }
  };
})();
