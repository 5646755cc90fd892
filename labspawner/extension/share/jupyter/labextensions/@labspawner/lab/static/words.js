/* What students read, in the two languages of labspawner. */

const TEXTS = {
  en: {
    stops: (at, left, why) => `Your server stops at ${at} (${left}): ${why}.`,
    inMinutes: n => `in ${n} min`,
    inAMoment: 'in a moment',
    extend: (step, left) => `Extend by ${step} min (${left} left)`,
    leftToday: left => `${left} left today`,
    noneLeft: 'It cannot be extended any more today.',
    saveAll: 'Save all',
    extended: at => `Extended: your server now stops at ${at}.`,
    kept: 'Your server goes on.',
    saved: 'Your documents are saved.',
    notSaved: paths => `Not saved: ${paths}`,
    failed: 'The server does not answer. Try again.',
    endedTitle: 'Your server has stopped',
    ended: (at, why) => `It stopped at ${at}: ${why}.`,
    endedSaved: 'Your saved files are kept. Start a server again to go on.',
    startAgain: 'Start again',
    close: 'Close',
    bar: n => `Stops in ${n} min`,
    barIdle: n => `Stops in ${n} min unless used`,
    held: at => `Kept until ${at}`,
    whatNow: 'What can I do?',
    lostTitle: 'Server unavailable or unreachable',
    lost: base => `Your server at ${base} is not running.\nWould you like to restart it?`
  },
  'zh-CN': {
    stops: (at, left, why) => `您的服务器将于 ${at} 停止（${left}）：${why}。`,
    inMinutes: n => `${n} 分钟后`,
    inAMoment: '即将',
    extend: (step, left) => `延长 ${step} 分钟（剩 ${left} 次）`,
    leftToday: left => `今天还可延长 ${left} 次`,
    noneLeft: '今天不能再延长了。',
    saveAll: '全部保存',
    extended: at => `已延长：您的服务器将于 ${at} 停止。`,
    kept: '您的服务器继续运行。',
    saved: '您的文档已保存。',
    notSaved: paths => `未保存：${paths}`,
    failed: '服务器没有响应，请重试。',
    endedTitle: '您的服务器已停止',
    ended: (at, why) => `已于 ${at} 停止：${why}。`,
    endedSaved: '已保存的文件会保留。重新启动服务器即可继续。',
    startAgain: '重新启动',
    close: '关闭',
    bar: n => `${n} 分钟后停止`,
    barIdle: n => `如不使用，${n} 分钟后停止`,
    held: at => `保留至 ${at}`,
    whatNow: '我该怎么办？',
    lostTitle: '服务器不可用或无法访问',
    lost: base => `您位于 ${base} 的服务器没有运行。\n要重新启动吗？`
  }
};

/* Chinese where JupyterLab is set to it, or the browser is and JupyterLab is as it came; else English. */
export function choose(labLocale, browserLocale) {
  const chinese = locale => /^zh\b|^zh_/i.test(locale || '');
  const asItCame = !labLocale || /^en/i.test(labLocale) || labLocale === 'default';
  return chinese(labLocale) || (asItCame && chinese(browserLocale)) ? 'zh-CN' : 'en';
}

/* Every sentence that is shown, from what the hub answered; `language` as choose() gives it. */
export class Words {
  constructor(language) {
    this.language = language;
    this.t = TEXTS[language];
  }

  clock(ms) {
    return new Date(ms).toLocaleTimeString(this.language, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
  }

  /* The hub's own sentence, as it stands. */
  whole(sentence) {
    return String((sentence && (sentence[this.language] || sentence.en)) || '');
  }

  /* The same without its full stop, where it is part of another one. */
  of(sentence) {
    return this.whole(sentence).replace(/[.。]+$/, '');
  }

  warning(answer, endsAt, now) {
    const minutes = Math.round((endsAt - now) / 60000);
    const left = minutes >= 1 ? this.t.inMinutes(minutes) : this.t.inAMoment;
    const text = this.t.stops(this.clock(endsAt), left, this.of(answer.reason));
    return answer.extend && answer.extend.left_today < 1 ? `${text} ${this.t.noneLeft}` : text;
  }

  bar(answer, endsAt, now) {
    const until = answer.hold && answer.hold.until ? Date.parse(answer.hold.until) : 0;
    if (until > now) {
      return this.t.held(this.clock(until));
    }
    const minutes = Math.max(1, Math.ceil((endsAt - now) / 60000));
    if (!endsAt || minutes > 30) {
      return '';
    }
    return answer.cause === 'idle' ? this.t.barIdle(minutes) : this.t.bar(minutes);
  }
}
