import subprocess, threading, pika
keep=[]
def test_child(): keep.append(subprocess.Popen(["sleep","12"]))
def test_thread(): t=threading.Thread(target=__import__("time").sleep,args=(7,)); t.start()
def test_conn(broker, namespace): keep.append(pika.BlockingConnection(pika.URLParameters(broker.url)))
def test_fine(broker, namespace): pass
