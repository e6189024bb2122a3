// Search without a server. Browsers start no Worker from a file:// page, and Material's search is one: here its
// script runs in a hidden frame that knows the two functions it calls, postMessage and importScripts.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.inside.importScripts = (...urls) =>
        urls.reduce((before, next) => before.then(() => this.load(new URL(next, url))), Promise.resolve())
      this.ready = this.load(url)
    }

    load(url) {
      const script = this.inside.document.createElement("script")
      const loaded = new Promise((done, failed) => Object.assign(script, { onload: done, onerror: failed }))
      script.src = url
      this.inside.document.body.append(script)
      return loaded
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
