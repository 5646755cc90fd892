/* When to ask, to beat, to warn, to save, and when all is over. Knows neither JupyterLab nor the page: what it needs is
 * given to it, so that every decision stands in one place.
 *
 * Times are milliseconds. The hub's clock decides; the browser's may be wrong by hours. */

export const ASK_MS = 20000; // while nothing is near; the hub's `report_every_s` where that is shorter
export const ASK_NEAR_MS = 4000;
export const ASK_SHORTEST_MS = 2000;
export const ASK_HIDDEN_MS = 60000; // a hidden tab may hold unsaved work, so it never stops asking altogether
const NEAR_MS = 150000;
const BEAT_MS = 20000;
const BEAT_AT_ONCE_MS = 3000; // between two beats, also when somebody begins to type after a while
const LAST_SAVE_MS = 20000; // before the end
const MESSAGES_FOR_MS = 900000;
const NEWS_FOR_MS = 180000; // who opens a page later has not just run what went wrong
const GONE_AFTER_MS = 5000; // the hub may be late, our answer a few seconds old

export class Watch {
  /* server: {status(), client(body), extend()}, promises; each rejects where nobody answers.
   * lab: {unsaved(), save()}, the open documents.
   * view: {warn(answer, endsAt, now), calm(), saved(paths), bar(answer, endsAt, now), news(notice),
   * leaving(said), stays(), ended(answer, endsAt)}.
   * page: {now(), hidden(), id}. */
  constructor(server, lab, view, page) {
    this.server = server;
    this.lab = lab;
    this.view = view;
    this.page = page;
    this.answer = null;
    this.over = false;
    this._offset = 0;
    this._askedAt = -Infinity;
    this._beatAt = -Infinity;
    this._input = null;
    this._freshInput = false;
    this._mark = 0;
    this._saved = new Set();
    this._told = 0;
    this._leaving = '';
    this._heard = 0;
  }

  /* Somebody uses the keyboard or the mouse. */
  used() {
    const now = this.page.now();
    this._freshInput = this._freshInput || this._mark > 0 || this._input === null || now - this._input > BEAT_MS;
    this._input = now;
  }

  get endsAt() {
    return this.answer && this.answer.ends_at ? Date.parse(this.answer.ends_at) : 0;
  }

  hubNow() {
    return this.page.now() + this._offset;
  }

  /* Call it about once a second; browsers call it less often in a hidden tab. */
  tick() {
    if (this.over) {
      return Promise.resolve();
    }
    const now = this.page.now();
    const work = [];
    if (now - this._beatAt >= (this._freshInput ? BEAT_AT_ONCE_MS : this._pause(BEAT_MS))) {
      work.push(this.beat());
    }
    if (now - this._askedAt >= this._pause(this._askEvery())) {
      work.push(this.ask());
    }
    if (this._near() && this.endsAt - this.hubNow() <= LAST_SAVE_MS) {
      work.push(this._saveOnce('end'));
    }
    this.view.bar(this.answer || {}, this.endsAt, this.hubNow());
    return Promise.all(work);
  }

  /* The tab is shown again: what is on the screen may be an hour old. */
  shown() {
    this._askedAt = this._beatAt = -Infinity;
    return this.tick();
  }

  async beat(closed = false) {
    this._beatAt = this.page.now();
    this._freshInput = false;
    const ago = this._input === null ? null : Math.max(0, (this.page.now() - this._input) / 1000);
    const body = { id: this.page.id, visible: !this.page.hidden(), last_input_s_ago: ago, unsaved: this.lab.unsaved() };
    try {
      await this.server.client(closed ? { ...body, closed: true } : body);
    } catch {
      // ask() notices that the server is gone
    }
  }

  async ask() {
    this._askedAt = this.page.now();
    let status;
    try {
      status = await this.server.status();
    } catch {
      this._unanswered();
      return;
    }
    if (status.answer) {
      this.take(status.answer, status.age_s || 0);
    }
  }

  /* An answer of the hub, and how many seconds ago it was given. */
  take(answer, age = 0) {
    this._offset = Date.parse(answer.now) + age * 1000 - this.page.now();
    this.answer = answer;
    this._tell(answer.notice);
    this._leave(answer.leaving);
    this._hear(answer.message);
    const marks = (answer.warn_at || []).filter(mark => Date.parse(mark) <= this.hubNow()).length;
    if (answer.verdict === 'keep' || !this.endsAt) {
      this._mark = 0;
      this.view.calm();
      return;
    }
    const mark = Math.max(marks, 1);
    this.view.warn(answer, this.endsAt, this.hubNow(), mark > this._mark);
    this._mark = Math.max(mark, this._mark);
    if (mark >= (answer.warn_at || []).length) {
      this._saveOnce('last mark');
    }
  }

  /* What course staff say; each once. */
  _hear(message) {
    if (message && message.id > this._heard) {
      this._heard = message.id;
      if (this.hubNow() - Date.parse(message.at) < MESSAGES_FOR_MS) {
        this.view.news(message);
      }
    }
  }

  /* Something that the student should know at once; each once. */
  _tell(notice) {
    if (notice && notice.id > this._told) {
      this._told = notice.id;
      if (this.hubNow() - Date.parse(notice.at) < NEWS_FOR_MS) {
        this.view.news(notice);
      }
    }
  }

  /* The machine below is announced to go away: said once, and taken back when that is. */
  _leave(leaving) {
    const id = (leaving && leaving.id) || '';
    if (id === this._leaving) {
      return;
    }
    if (this._leaving) {
      this.view.stays();
    }
    this._leaving = id;
    if (id) {
      this.view.leaving(leaving);
    }
  }

  /* Whether the hub said that it would stop this server about now. */
  ends() {
    return Boolean(this.endsAt) && this.answer.verdict !== 'keep' && this.hubNow() >= this.endsAt - GONE_AFTER_MS;
  }

  finish() {
    if (!this.over) {
      this.over = true;
      this.view.calm();
      this.view.ended(this.answer, this.endsAt);
    }
  }

  _unanswered() {
    if (this.ends()) {
      this.finish();
    }
  }

  _near() {
    return Boolean(this.endsAt) && this.endsAt - this.hubNow() < NEAR_MS;
  }

  _askEvery() {
    const news = ((this.answer && this.answer.report_every_s) || 60) * 1000; // our server knows nothing newer before
    return Math.max(ASK_SHORTEST_MS, Math.min(this._near() ? ASK_NEAR_MS : ASK_MS, news));
  }

  _pause(shown) {
    return this.page.hidden() ? ASK_HIDDEN_MS : shown;
  }

  /* Once for each end and occasion, so that an end that moves is prepared for again. */
  async _saveOnce(occasion) {
    const key = `${occasion} ${this.answer.ends_at}`;
    if (this._saved.has(key) || this.lab.unsaved().length === 0) {
      return;
    }
    this._saved.add(key);
    this.view.saved(await this.lab.save());
  }
}
