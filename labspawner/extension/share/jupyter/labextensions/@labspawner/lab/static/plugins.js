/* Our place in JupyterLab: its documents, its notifications, its status bar and its word for a lost connection. */

/* The documents of the main area that have changes. Duck typing: anything with a document context is one. */
function changed(app) {
  const contexts = new Set();
  for (const widget of app.shell.widgets('main')) {
    const context = widget.context;
    if (context && context.model && context.model.dirty && !context.model.readOnly) {
      contexts.add(context);
    }
  }
  return [...contexts];
}

/* Not `docmanager:save-all`, which also writes what has no changes, and so asks about files that changed on disk.
 * Returns the paths that could not be saved. */
async function saveAll(app) {
  const contexts = changed(app);
  const done = await Promise.allSettled(contexts.map(context => context.save()));
  return contexts.filter((_, place) => done[place].status === 'rejected').map(context => context.path);
}

/* Our own REST API, with JupyterLab's way to authenticate. A rejection carries the hub's sentence as `said`. */
function api(jupyter, app) {
  const settings = app.serviceManager.serverSettings;
  const call = async (what, body, more = {}) => {
    const url = jupyter.URLExt.join(settings.baseUrl, 'labspawner', what);
    const init = body ? { method: 'POST', body: JSON.stringify(body), ...more } : { method: 'GET', cache: 'no-store' };
    const response = await jupyter.ServerConnection.makeRequest(url, init, settings);
    const answer = response.status === 204 ? {} : await response.json().catch(() => ({}));
    if (!response.ok) {
      throw Object.assign(new Error(`${what}: ${response.status}`), { said: answer.message });
    }
    return answer;
  };
  return {
    status: () => call('status'),
    client: body => call('client', body, body.closed ? { keepalive: true } : {}),
    extend: () => call('extend', {})
  };
}

/* What the student sees. One warning at a time; its text is kept true while it is shown. */
class View {
  constructor(jupyter, words, actions) {
    this.jupyter = jupyter;
    this.words = words;
    this.actions = actions;
    this.node = document.createElement('span');
    this.node.className = 'labspawner-bar jp-StatusBar-TextItem';
    this._toast = null;
    this._leaves = null;
  }

  warn(answer, endsAt, now, fresh) {
    const { Notification } = this.jupyter;
    const message = this.words.warning(answer, endsAt, now);
    if (!fresh) {
      if (this._toast && message !== this._message && Notification.manager.has(this._toast)) {
        Notification.update({ id: this._toast, message });
        this._message = message;
      }
      return;
    }
    this.calm();
    const t = this.words.t;
    const actions = [{ label: t.saveAll, callback: () => this.actions.save() }];
    if (answer.extend && answer.extend.left_today > 0) {
      const label = t.extend(Math.round(answer.extend.step_s / 60), answer.extend.left_today);
      const caption = t.leftToday(answer.extend.left_today);
      actions.unshift({ label, caption, displayType: 'accent', callback: () => this.actions.extend() });
    }
    this._message = message;
    this._toast = Notification.emit(message, 'warning', { autoClose: false, actions });
  }

  calm() {
    if (this._toast) {
      this.jupyter.Notification.dismiss(this._toast);
      this._toast = null;
    }
  }

  saved(failed) {
    this._tell(failed.length === 0, this.words.t.saved, this.words.t.notSaved(failed.join(', ')));
  }

  extended(answer, endsAt) {
    this._tell(true, endsAt ? this.words.t.extended(this.words.clock(endsAt)) : this.words.t.kept);
  }

  refused(said) {
    this._tell(false, '', said ? this.words.of(said) : this.words.t.failed);
  }

  news(notice) {
    const { Dialog, Notification, showDialog } = this.jupyter;
    const text = this.words.whole(notice.text);
    const hints = (notice.hints || []).map(hint => `• ${this.words.whole(hint)}`);
    const help = () => {
      const body = [text, ...hints].join('\n'); // a toast shows 140 letters
      showDialog({ title: this.words.t.whatNow, body, buttons: [Dialog.okButton({ label: this.words.t.close })] });
    };
    const actions = hints.length ? [{ label: this.words.t.whatNow, displayType: 'accent', callback: help }] : [];
    Notification.emit(text, 'warning', { autoClose: false, actions });
  }

  leaving(said) {
    const text = this.words.whole(said.text).replace('{at}', this.words.clock(Date.parse(said.at)));
    const actions = [{ label: this.words.t.saveAll, callback: () => this.actions.save() }];
    this._leaves = this.jupyter.Notification.emit(text, 'warning', { autoClose: false, actions });
  }

  stays() {
    if (this._leaves) {
      this.jupyter.Notification.dismiss(this._leaves);
      this._leaves = null;
    }
  }

  bar(answer, endsAt, now) {
    const text = this.words.bar(answer, endsAt, now);
    if (this.node.textContent !== text) {
      this.node.textContent = text;
    }
  }

  async ended(answer, endsAt) {
    this.bar({}, 0, 0);
    const { Dialog, PageConfig, URLExt, showDialog } = this.jupyter;
    const t = this.words.t;
    const hub = PageConfig.getOption('hubPrefix');
    const buttons = [Dialog.cancelButton({ label: t.close })];
    if (hub) {
      buttons.push(Dialog.okButton({ label: t.startAgain }));
    }
    const body = `${t.ended(this.words.clock(endsAt), this.words.of(answer.reason))}\n${t.endedSaved}`;
    const result = await showDialog({ title: t.endedTitle, body, buttons });
    if (result.button.accept && hub) {
      const [user, name] = ['hubUser', 'hubServerName'].map(option => PageConfig.getOption(option));
      const parts = name ? [user, name].map(encodeURIComponent) : [];
      window.location.assign(PageConfig.getOption('hubHost') + URLExt.join(hub, 'spawn', ...parts));
    }
  }

  _tell(good, yes, no) {
    const { Notification } = this.jupyter;
    good ? Notification.success(yes, { autoClose: 5000 }) : Notification.error(no, { autoClose: false });
  }
}

export function make(jupyter, { Watch }, { Words, choose }) {
  const wordsFor = translator => new Words(choose(translator && translator.languageCode, navigator.language));
  let watch = null;

  const main = {
    id: '@labspawner/lab:plugin',
    description: 'Says when this server will stop and why, extends it, and saves what is open before.',
    autoStart: true,
    optional: [jupyter.IStatusBar, jupyter.ITranslator],
    activate: (app, statusBar, translator) => {
      if (!jupyter.PageConfig.getOption('labspawner')) {
        return; // no labspawner hub started this server
      }
      const server = api(jupyter, app);
      const lab = { unsaved: () => changed(app).map(context => context.path), save: () => saveAll(app) };
      const view = new View(jupyter, wordsFor(translator), {
        save: async () => view.saved(await lab.save()),
        extend: async () => {
          try {
            watch.take(await server.extend());
            view.extended(watch.answer, watch.endsAt);
          } catch (error) {
            view.refused(error.said);
          }
        }
      });
      const page = {
        now: () => Date.now(),
        hidden: () => document.visibilityState === 'hidden',
        id: Math.random().toString(36).slice(2)
      };
      watch = new Watch(server, lab, view, page);
      if (statusBar) {
        const item = new jupyter.Widget({ node: view.node });
        statusBar.registerStatusItem('@labspawner/lab:bar', { item, align: 'right', rank: 20 });
      }
      for (const kind of ['keydown', 'pointerdown', 'wheel']) {
        document.addEventListener(kind, () => watch.used(), { capture: true, passive: true });
      }
      document.addEventListener('visibilitychange', () => page.hidden() ? watch.beat() : watch.shown());
      window.addEventListener('pagehide', () => watch.beat(true));
      app.restored.then(() => {
        watch.tick();
        window.setInterval(() => watch.tick(), 1000);
      });
    }
  };

  /* JupyterHub's own plugin for this is switched off in our package.json: there can be only one, and it knows no reason.
   * Where we know none either, it says what that one would have said. */
  const connectionLost = {
    id: '@labspawner/lab:connection-lost',
    description: 'Says why a server is gone, where the hub had said so before.',
    autoStart: true,
    requires: [jupyter.JupyterFrontEnd.IPaths],
    optional: [jupyter.ITranslator],
    provides: jupyter.IConnectionLost,
    activate: (app, paths, translator) => {
      const t = wordsFor(translator).t;
      let asking = false;
      return async (manager, error) => {
        if (watch && (watch.over || watch.ends())) {
          watch.finish();
          return;
        }
        if (!paths.urls.hubPrefix) {
          await jupyter.ConnectionLost(manager, error, translator || undefined);
          return;
        }
        if (asking) {
          return;
        }
        asking = true;
        const { Dialog } = jupyter;
        const buttons = [Dialog.okButton({ label: t.startAgain }), Dialog.cancelButton({ label: t.close })];
        const result = await jupyter.showDialog({ title: t.lostTitle, body: t.lost(paths.urls.base), buttons });
        asking = false;
        if (result.button.accept && app.commands.hasCommand('hub:restart')) {
          await app.commands.execute('hub:restart');
        }
      };
    }
  };
  return [main, connectionLost];
}
